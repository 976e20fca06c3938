"""In production every file has its hash in its name, and modules find one another by those names."""

from pathlib import Path

from django.contrib.staticfiles.storage import StaticFilesStorage

from feedback_app.static_files import HashedModulesStorage

FILES = {
    "js/page.js": 'import { one } from "./part.js";\nimport "../vendor/lib/lib.js";\n',
    "js/part.js": "export const one = 1;\n",
    "vendor/lib/lib.js": "export default 1;\n",
    "theirs/ext.js": "// import htmx from './nowhere.js';\n",
}


def test_modules_import_one_another_by_hashed_names_and_other_peoples_scripts_are_left_alone(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    storage = HashedModulesStorage(location=tmp_path, base_url="/static/")
    plain = StaticFilesStorage(location=tmp_path, base_url="/static/")
    for _name, _hashed, processed in storage.post_process({name: (plain, name) for name in FILES}):
        assert not isinstance(processed, Exception), processed
    page = (tmp_path / storage.stored_name("js/page.js")).read_text()
    assert storage.stored_name("js/part.js").rpartition("/")[2] in page
    assert storage.stored_name("vendor/lib/lib.js").rpartition("/")[2] in page
    assert (tmp_path / storage.stored_name("theirs/ext.js")).read_text() == FILES["theirs/ext.js"]
