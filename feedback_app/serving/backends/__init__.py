"""One way to speak to whatever serves policies: the backend of an endpoint's kind."""

from feedback_app.serving.backends.base import Backend, BackendError, Generated, SamplingParameters
from feedback_app.serving.backends.embedded import EmbeddedBackend
from feedback_app.serving.backends.external import ExternalBackend
from feedback_app.serving.backends.tgi import TGIBackend
from feedback_app.serving.backends.vllm import DISK, VLLMBackend
from feedback_app.serving.backends.vllm_disk import VLLMDiskBackend
from feedback_app.serving.models import Endpoint

__all__ = ["Backend", "BackendError", "Generated", "SamplingParameters", "backend_of"]

KINDS: dict[str, type[Backend]] = {
    Endpoint.Backend.EMBEDDED: EmbeddedBackend,
    Endpoint.Backend.TGI: TGIBackend,
    Endpoint.Backend.VLLM: VLLMBackend,
    Endpoint.Backend.EXTERNAL: ExternalBackend,
}


def backend_of(endpoint: Endpoint) -> Backend:
    """Return the backend that speaks to an endpoint."""
    if endpoint.backend == Endpoint.Backend.VLLM and endpoint.settings.get("weights") == DISK:
        return VLLMDiskBackend(endpoint)
    return KINDS[endpoint.backend](endpoint)
