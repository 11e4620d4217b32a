"""An uploaded file, as the service knows it."""

from datetime import datetime

from pydantic import Field

from rankpress.names import FileFormat
from rankpress.schemas.base import Frozen


class TensorInfo(Frozen):
    """A tensor as the file's header describes it."""

    name: str
    dtype: str = Field(description="torch's name without the prefix: float32, bfloat16, int64")
    shape: tuple[int, ...]


class Upload(Frozen):
    id: str
    filename: str | None = Field(description="The name given by the caller: a label, never a path")
    size_bytes: int
    sha256: str = Field(description="Lower-case hex SHA-256 of the bytes received")
    format: FileFormat
    tensors: tuple[TensorInfo, ...] | None = Field(
        description="The tensors by name, where the file's header tells them without loading it"
    )
    created_at: datetime
