"""What a statistics file says of itself: second moments of a model's layers, without its data.

A safetensors file of float64 tensors, by the state_dict key of a layer's weight:

    <key>/mean         [N]     mean of the layer's input vectors
    <key>/covariance   [N, N]  mean of (x - mean)(x - mean)^T over them
    <key>/frequencies  [V]     of an embedding, in place of the two: share of each index
    <key>/sensitivity  [M, M]  J^T H J summed over a sample's vectors, mean over samples; J is the
                               Jacobian of the model's output by the layer's (by an embedding's
                               vectors: [D, D]), H the identity or, of the sensitivity softmax,
                               diag(p) - p p^T with p the softmax of the output at temperature 2

An input vector is what one row of the weight is multiplied with: a token's features, or a patch of
a convolution in the order [in, *kernel]. The metadata holds `StatisticsInfo` as JSON.
"""

from pydantic import Field

from rankpress.names import Sensitivity
from rankpress.schemas.base import Frozen

METADATA_KEY = "rankpress.statistics"
MEAN, COVARIANCE, FREQUENCIES, SENSITIVITY = "mean", "covariance", "frequencies", "sensitivity"
VERSION = 1


class StatisticsInfo(Frozen):
    version: int = VERSION
    samples: int = Field(ge=1)
    two_sided: bool
    sensitivity: Sensitivity = Field(
        default=Sensitivity.OUTPUT, description="Which H, of a two-sided file"
    )
    exact: bool | None = Field(
        default=None, description="The Jacobian by each output; else by random projections of it"
    )
    vectors: dict[str, int] = Field(description="Input vectors by weight")
