import uuid

from rankpress.service.ids import new_id


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(50)]
    assert all(uuid.UUID(i).version == 7 and uuid.UUID(i).variant == uuid.RFC_4122 for i in ids)
    milliseconds = [uuid.UUID(i).int >> 80 for i in ids]
    assert milliseconds == sorted(milliseconds)
    assert len(set(ids)) == 50
