"""WCAG 2.2 AA as axe sees it: one call that fails with what is wrong and where."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}


def assert_accessible(page: Page) -> None:
    """Run axe on the page as it stands; every violation is named with the elements it is about."""
    found = Axe().run(page, options=RULES).response["violations"]
    assert found == [], "\n".join(
        f"{rule['id']}: {rule['help']}: {node['target']} {node.get('failureSummary', '')}"
        for rule in found
        for node in rule["nodes"]
    )
