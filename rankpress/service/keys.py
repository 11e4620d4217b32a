"""Where everything lies in the store. A key is made here and nowhere else.

An upload exists once its `upload.json` does, which is written last; a job's artifacts are named
by job and step, so that a step done twice writes the same object twice.
"""


def upload_prefix(tenant: str, upload_id: str) -> str:
    return f"uploads/{tenant}/{upload_id}"


def upload_data(tenant: str, upload_id: str) -> str:
    return f"{upload_prefix(tenant, upload_id)}/data"


def upload_record(tenant: str, upload_id: str) -> str:
    return f"{upload_prefix(tenant, upload_id)}/upload.json"


def partial_prefix(tenant: str) -> str:
    return f"partials/{tenant}"


def partial_record(tenant: str, upload_id: str) -> str:
    """Of a resumable upload that is not complete yet: apart from its bytes, so that counting the
    open ones does not list every upload."""
    return f"{partial_prefix(tenant)}/{upload_id}.json"


def upload_parts(tenant: str, upload_id: str) -> str:
    return f"{upload_prefix(tenant, upload_id)}/parts"


def upload_part(tenant: str, upload_id: str, offset: int) -> str:
    """The bytes that begin at `offset` of the file."""
    return f"{upload_parts(tenant, upload_id)}/{offset:020d}"


def job_prefix(tenant: str, job_id: str) -> str:
    return f"jobs/{tenant}/{job_id}"


def job_plan(tenant: str, job_id: str) -> str:
    return f"{job_prefix(tenant, job_id)}/plan.json"


def job_parts(tenant: str, job_id: str) -> str:
    return f"{job_prefix(tenant, job_id)}/parts"


def job_part(tenant: str, job_id: str, group: int) -> str:
    """Factors of one group of layers, as safetensors."""
    return f"{job_parts(tenant, job_id)}/{group:06d}.safetensors"


def job_refit(tenant: str, job_id: str, result: int) -> str:
    """Right factors and biases made anew for one result; gone when the job ends."""
    return f"{job_parts(tenant, job_id)}/refit{_suffix(result)}.safetensors"


def job_spectrum(tenant: str, job_id: str) -> str:
    return f"{job_prefix(tenant, job_id)}/spectrum.json"


def job_statistics(tenant: str, job_id: str) -> str:
    """Second moments that the service made for the job; gone when it ends."""
    return f"{job_parts(tenant, job_id)}/statistics.safetensors"


def job_weights(tenant: str, job_id: str, result: int = 0) -> str:
    return f"{job_prefix(tenant, job_id)}/weights{_suffix(result)}"


def job_report(tenant: str, job_id: str, result: int = 0) -> str:
    return f"{job_prefix(tenant, job_id)}/report{_suffix(result)}.json"


def _suffix(result: int) -> str:
    """Of a job's results the first has the plain name."""
    return f"-{result}" if result else ""
