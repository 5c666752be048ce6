import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement, InstanceData
from torch.utils.data import DataLoader

from bench.training.collate import collate_for_handover

KINDS = {
    "image": torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "expanded": torch.tensor([7]).expand(1, 1),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, object]:
        sample = BaseDataElement(metainfo={"img_path": f"{index}.png", "scale": (1.0, 2.0)})
        sample.gt = InstanceData(boxes=torch.full((2, 4), float(index)), names=["a", "b"])
        return {"inputs": KINDS["image"] + index, "data_samples": sample, "kinds": KINDS}


def test_what_a_worker_sends_is_the_batch_that_it_collated() -> None:
    here = DataLoader(Samples(), batch_size=2, collate_fn=pseudo_collate)
    there = DataLoader(Samples(), batch_size=2, num_workers=1, collate_fn=collate_for_handover)
    for expected, found in zip(here, there, strict=True):
        assert found.keys() == expected.keys()
        assert all(a.equal(b) for a, b in zip(expected["inputs"], found["inputs"], strict=True))
        for a, b in zip(expected["data_samples"], found["data_samples"], strict=True):
            assert a.metainfo == b.metainfo
            assert a.gt.boxes.equal(b.gt.boxes)
            assert a.gt.names == b.gt.names
        for name, tensors in expected["kinds"].items():
            assert all(a.equal(b) for a, b in zip(tensors, found["kinds"][name], strict=True))
            assert {t.dtype for t in tensors} == {t.dtype for t in found["kinds"][name]}


def test_all_tensors_of_a_batch_share_one_block() -> None:
    """Each would be a file descriptor of its own otherwise, which is what costs."""
    loader = DataLoader(Samples(), batch_size=4, num_workers=1, collate_fn=collate_for_handover)
    (batch,) = loader
    tensors = [*batch["inputs"], *(s.gt.boxes for s in batch["data_samples"])]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    tensors[0].add_(1)
    assert tensors[1].equal(KINDS["image"] + 1), "and do not overlap"


def test_without_workers_it_is_mmengines_collate() -> None:
    loader = DataLoader(Samples(), batch_size=4, collate_fn=collate_for_handover)
    (batch,) = loader
    assert batch["inputs"][2].equal(KINDS["image"] + 2)
