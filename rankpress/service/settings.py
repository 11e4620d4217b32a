"""Settings of API and worker, from `RANKPRESS_*` variables. Read by the entry points alone."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rankpress.formats import Limits

MIB = 1024**2
GIB = 1024**3


class Settings(BaseSettings):
    """Every field is set by the environment variable of its name with the prefix `RANKPRESS_`."""

    model_config = SettingsConfigDict(env_prefix="RANKPRESS_", frozen=True, extra="ignore")

    data_dir: Path = Field(
        default=Path("rankpress-data"),
        description="Folder of the embedded database, the local store and scratch files",
    )
    database_url: str = Field(
        default="", description="sqlite:///... or postgresql://...; empty: a file in data_dir"
    )
    store_url: str = Field(
        default="", description="file://, s3://, gs:// or az://; empty: a folder in data_dir"
    )
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    # limits of the API
    max_upload_bytes: PositiveInt = 100 * GIB
    max_json_bytes: PositiveInt = Field(default=1 * MIB, description="Body of any other route")
    max_header_bytes: PositiveInt = Field(
        default=32 * MIB, description="safetensors header, or pickle inside a .pt"
    )
    max_tensors: PositiveInt = 200_000
    open_access: bool = Field(
        default=False,
        description="Serve without API keys on an address that other machines can reach",
    )
    max_stored_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Uploads and results of one caller; 0: no limit"
    )
    max_requests_per_second: Annotated[float, Field(ge=0)] = Field(
        default=100.0, description="Of one caller, twice that at once; 0: no limit"
    )
    max_partial_uploads: PositiveInt = Field(
        default=100, description="Resumable uploads of one caller that are not complete"
    )
    partial_upload_hours: PositiveFloat = Field(
        default=24.0,
        description="A resumable upload that nobody went on with for so long is deleted",
    )
    stalled_body_seconds: PositiveFloat = Field(
        default=30.0, description="A body that sends nothing for so long is given up"
    )
    max_wait_seconds: PositiveFloat = Field(default=60.0, description="Cap of Prefer: wait")
    min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        default=256 * MIB,
        description="With a local store: with less free on its disk, /readyz says 503",
    )
    max_open_jobs: PositiveInt = Field(
        default=100, description="Queued and running jobs of one caller"
    )
    redirect_downloads: bool = Field(
        default=False,
        description="Weights by redirect to a signed URL, where the store can sign",
    )
    redirect_seconds: Annotated[int, Field(ge=1, le=604800)] = Field(
        default=900, description="How long such a URL is valid"
    )

    # webhooks: the API checks, the worker delivers
    webhook_allow_http: bool = Field(default=False, description="Also call http:// addresses")
    webhook_allow_private: bool = Field(
        default=False, description="Also call private networks and loopback"
    )
    webhook_timeout_seconds: PositiveFloat = Field(
        default=15.0, description="Longest time that a delivery may take"
    )
    webhook_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=11, description="Times that a delivery is tried, over about a day"
    )
    webhook_first_retry_seconds: PositiveFloat = Field(
        default=5.0, description="Before the second attempt; four times as long before each next"
    )

    # the worker
    worker_name: str = Field(
        default="worker-1",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Unique among the workers of one database, the same after a restart",
    )
    worker_concurrency: PositiveInt = Field(default=1, description="Jobs at once in a worker")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = Field(
        default=0, description="CPU threads of a compute process; 0: all cores / concurrency"
    )
    step_seconds: PositiveFloat = Field(
        default=5.0,
        description="About how long a group of layers takes: what a crash may cost, and what is "
        "handed to another worker at once",
    )
    fan_out: bool = Field(
        default=False, description="Spread the layers of large models over all workers"
    )
    child_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Address space of a compute process beyond the files it maps and its threads; "
        "0: the memory of the machine or container",
    )
    child_cpu_seconds: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="CPU seconds of a compute process, all threads together; 0: half an hour, and "
        "a minute for each mebibyte of the files it reads",
    )
    layers_memory_bytes: PositiveInt = Field(
        default=1 * GIB,
        description="Memory of the layers that a compute process works on at once; one that needs "
        "more is worked on alone",
    )
    decomposition_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=1 * GIB,
        description="On the worker's disk, what a layer's decomposition is made from, for a day "
        "after its last use: the same layer under another threshold is not decomposed again; "
        "0: nothing is kept",
    )
    child_attempts: PositiveInt = Field(
        default=2, description="Times that a step whose process died is tried"
    )
    max_attempts: PositiveInt = Field(
        default=5, description="Times that a job is taken up again after its worker died"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="Port of the worker's Prometheus metrics; 0: none"
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of that port")
    retention_days: Annotated[float, Field(ge=0)] = Field(
        default=7.0,
        description="Days that ended jobs, their results and unused uploads are kept; 0: for ever",
    )
    queue_poll_seconds: PositiveFloat = 0.1
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        object.__setattr__(self, "data_dir", self.data_dir.expanduser().absolute())
        if not self.database_url:
            object.__setattr__(
                self, "database_url", f"sqlite:///{self.data_dir / 'rankpress.sqlite'}"
            )
        if not self.store_url:
            object.__setattr__(self, "store_url", (self.data_dir / "store").as_uri())
        return self

    @property
    def file_limits(self) -> Limits:
        """What a file may ask of the process that looks at its header."""
        return Limits(max_header_bytes=self.max_header_bytes, max_tensors=self.max_tensors)

    @property
    def scratch_dir(self) -> Path:
        """Local folder of files that do not outlive a job."""
        return self.data_dir / "scratch"

    @property
    def decomposition_cache_dir(self) -> Path:
        """Local folder of what decompositions are made from; the workers of a machine share it."""
        return self.data_dir / "decompositions"

    @property
    def scratch_leases_dir(self) -> Path:
        """Beside the scratch folders, whose every name is a worker's."""
        return self.data_dir / "scratch-leases"

    @property
    def worker_scratch_dir(self) -> Path:
        """This worker's part of it: several workers may share a machine, and a job."""
        return self.scratch_dir / self.worker_name

    @property
    def sqlite_path(self) -> Path | None:
        """The embedded database's file, or None with a database server."""
        prefix = "sqlite:///"
        return (
            Path(self.database_url.removeprefix(prefix))
            if self.database_url.startswith(prefix)
            else None
        )
