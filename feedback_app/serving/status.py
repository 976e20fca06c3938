"""How an endpoint is, asked of itself, in the time that a page may wait."""

import time
from dataclasses import dataclass

import httpx

from feedback_app.serving.models import Deployment, Endpoint

TIMEOUT_S = 2.5


@dataclass(frozen=True, kw_only=True)
class EndpointStatus:
    """What the server said: whether it is well, whether it has the live version, and all that it has (None: unknown).

    why says what went wrong, in the words of the failure.
    """

    well: bool
    has_live: bool | None = None
    loaded: tuple[str, ...] | None = None
    milliseconds: int | None = None
    why: str = ""


def ask_endpoint(deployment: Deployment) -> EndpointStatus:
    """Ask the endpoint of a project how it is and which version it has; never raises for what the server does."""
    endpoint = deployment.endpoint
    base = endpoint.url.rstrip("/")
    token = str(endpoint.settings.get("token", ""))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    began = time.monotonic()
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S) as client:
            client.get("/health").raise_for_status()
            took = round(1000 * (time.monotonic() - began))
            loaded = _loaded(client, endpoint)
    except httpx.HTTPError as error:
        return EndpointStatus(well=False, why=str(error) or type(error).__name__)
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        return EndpointStatus(well=False, why=f"its answer is not what such a server says ({error})")
    has_live = None if loaded is None else deployment.live.name in loaded
    return EndpointStatus(well=True, has_live=has_live, loaded=loaded, milliseconds=took)


def _loaded(client: httpx.Client, endpoint: Endpoint) -> tuple[str, ...] | None:
    """Return the names of the versions that the server has; None where it knows files, not our names."""
    if endpoint.backend == Endpoint.Backend.EMBEDDED:
        shown = client.get("/info").raise_for_status().json()["policies"]
        return tuple(str(entry["name"]) for entry in shown if entry.get("state", "ready") == "ready")
    if endpoint.backend == Endpoint.Backend.VLLM:
        shown = client.get("/v1/models").raise_for_status().json()["data"]
        return tuple(str(entry["id"]) for entry in shown)
    return None
