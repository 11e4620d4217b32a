"""The allow-list against torch's own."""

from torch._weights_only_unpickler import _get_allowed_globals

from rankpress.formats.globals import ALLOWED

# Names that torch.load(weights_only=True) does not know, and nothing here calls.
_ONLY_HERE = {
    *(f"torch.storage.{name}" for name in ("TypedStorage", "UntypedStorage")),
}


def test_everything_that_torch_allows_is_allowed() -> None:
    assert set(_get_allowed_globals()) - ALLOWED == set()


def test_what_is_allowed_beyond_is_data() -> None:
    """Storage and tensor classes of other spellings: compared by name, never imported."""
    beyond = ALLOWED - set(_get_allowed_globals())
    assert all(name.endswith(("Storage", "Tensor")) for name in beyond - _ONLY_HERE)
