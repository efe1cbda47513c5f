"""mmcv's operators on torchvision: value and gradient of each, through the public functions of
mmcv.ops.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv

import tinyvit.detection  # first: it provides mmcv._ext
from tinyvit.detection.compat.mmcv_ext import mmcv_ops_in_use

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
mmcv_ops = pytest.importorskip("mmcv.ops")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_boxes(count: int, size: float = 60.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * size * 0.7
    return torch.cat((corner, corner + torch.rand(count, 2) * size * 0.5 + 1), dim=1)


def rois_on(images: int, count: int, size: float) -> torch.Tensor:
    return torch.cat((torch.randint(images, (count, 1)).float(), random_boxes(count, size)), dim=1)


def reference_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    """Greedy suppression written from its definition."""
    keep: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(reference_iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in keep):
            keep.append(i)
    return keep


def reference_iou(a: list[float], b: list[float], offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_is_greedy_suppression(device: str, offset: int, threshold: float) -> None:
    boxes, scores = random_boxes(60), torch.rand(60)
    dets, keep = mmcv_ops.nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert keep.tolist() == reference_nms(boxes, scores, threshold, offset)
    torch.testing.assert_close(dets.cpu(), torch.cat((boxes[keep.cpu()], scores[keep.cpu()][:, None]), 1))


def test_nms_filters_by_score_limits_the_number_and_takes_nothing() -> None:
    boxes, scores = random_boxes(60), torch.rand(60)
    _, keep = mmcv_ops.nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)
    confident = [i for i in reference_nms(boxes, scores, 0.5, 0) if scores[i] > 0.4]
    assert keep.tolist() == confident[:5]
    dets, keep = mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert keep.tolist() == []


def test_nms_takes_half_precision(device: str) -> None:
    boxes, scores = random_boxes(30).round().half(), torch.linspace(0.1, 0.9, 30).half()
    _, keep = mmcv_ops.nms(boxes.to(device), scores.to(device), 0.5)
    assert keep.tolist() == reference_nms(boxes.float(), scores.float(), 0.5, 0)


@pytest.mark.parametrize("split_thr", [10_000, 10])
def test_batched_nms_keeps_classes_apart(device: str, split_thr: int) -> None:
    boxes, scores, classes = random_boxes(80), torch.rand(80), torch.randint(4, (80,))
    config = {"type": "nms", "iou_threshold": 0.4, "split_thr": split_thr}
    dets, keep = mmcv_ops.batched_nms(boxes.to(device), scores.to(device), classes.to(device), config)
    expected = tv.batched_nms(boxes, scores, classes, 0.4)
    assert keep.tolist() == expected.tolist()
    torch.testing.assert_close(dets[:, 4].cpu(), scores[expected])


def test_batched_nms_can_ignore_classes() -> None:
    boxes, scores, classes = random_boxes(80), torch.rand(80), torch.randint(4, (80,))
    config = {"type": "nms", "iou_threshold": 0.4}
    _, keep = mmcv_ops.batched_nms(boxes, scores, classes, config, class_agnostic=True)
    assert keep.tolist() == tv.nms(boxes, scores, 0.4).tolist()
    assert len(keep) < len(tv.batched_nms(boxes, scores, classes, 0.4))


def reference_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Soft-NMS written from its definition: take the best, lower the others by their overlap with
    it.
    """
    left = {i: float(score) for i, score in enumerate(scores)}
    kept: list[tuple[int, float]] = []
    while left:
        best = max(left, key=lambda i: left[i])
        kept.append((best, left.pop(best)))
        for i in list(left):
            overlap = reference_iou(boxes[best].tolist(), boxes[i].tolist(), offset)
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= (1 - overlap) if method == "linear" else 0.0
            if left[i] < min_score:
                del left[i]
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_lowers_scores_by_overlap(device: str, method: str, offset: int) -> None:
    boxes, scores = random_boxes(40), torch.rand(40)
    dets, keep = mmcv_ops.soft_nms(
        boxes.to(device), scores.to(device), 0.3, sigma=0.5, min_score=0.05, method=method, offset=offset
    )
    expected = reference_soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert keep.tolist() == [i for i, _ in expected]
    assert 0 < len(keep) < 40
    torch.testing.assert_close(dets[:, 4].cpu(), torch.tensor([score for _, score in expected]))
    torch.testing.assert_close(dets[:, :4].cpu(), boxes[keep.cpu()])


def test_soft_nms_through_batched_nms_and_of_nothing() -> None:
    boxes, scores, classes = random_boxes(40), torch.rand(40), torch.randint(3, (40,))
    config = {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.05}
    dets, keep = mmcv_ops.batched_nms(boxes, scores, classes, config)
    expected = {}
    for label in range(3):
        mine = (classes == label).nonzero().flatten()
        for i, score in reference_soft_nms(boxes[mine], scores[mine], 0.3, 0.5, 0.05, "linear", 0):
            expected[int(mine[i])] = score
    assert set(keep.tolist()) == set(expected)
    # Boxes of each class were shifted apart, which costs fp32 digits of the overlap.
    np.testing.assert_allclose(dets[:, 4], [expected[i] for i in keep.tolist()], rtol=1e-4)
    dets, keep = mmcv_ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert keep.numel() == 0


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_equals_torchvision(device: str, aligned: bool, sampling_ratio: int) -> None:
    features = torch.randn(2, 5, 16, 20, device=device)
    rois = rois_on(2, 9, 60).to(device)
    rois[0] = torch.tensor([1, -9.0, -7.0, 90.0, 80.0])  # reaches past the map
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    value = mmcv_ops.roi_align(ours, rois, (3, 4), 0.25, sampling_ratio, "avg", aligned)
    expected = tv.roi_align(theirs, rois, (3, 4), 0.25, sampling_ratio, aligned)
    weights = torch.randn_like(value)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_roi_align_averages_a_ramp() -> None:
    """A reference that is not torchvision: the mean of a linear ramp over a bin is its value at the
    bin's centre.
    """
    ramp = torch.arange(16.0).repeat(16, 1)[None, None]  # value = column index, a pixel's centre being at index + 0.5
    rois = torch.tensor([[0, 4.0, 4.0, 12.0, 12.0]])
    value = mmcv_ops.roi_align(ramp, rois, (1, 2), 1.0, 0, "avg", True)
    torch.testing.assert_close(value.flatten(), torch.tensor([5.5, 9.5]))


def test_roi_align_gradient_by_finite_differences() -> None:
    features = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 2.0, 17.0, 19.0], [0, 3.0, 0.0, 9.0, 23.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mmcv_ops.roi_align(x, rois, (2, 2), 0.25, 0, "avg", True), features)


def test_roi_align_takes_bfloat16(device: str) -> None:
    features, rois = torch.randn(1, 3, 8, 8, device=device), torch.tensor([[0, 3.0, 3.0, 20.0, 24.0]], device=device)
    value = mmcv_ops.roi_align(features.bfloat16(), rois.bfloat16(), 2, 0.25, 0, "avg", True)
    assert value.dtype == torch.bfloat16
    expected = tv.roi_align(features.bfloat16().float(), rois, 2, 0.25, 0, True)
    torch.testing.assert_close(value.float(), expected, atol=1e-2, rtol=1e-2)


def test_roi_align_max_is_named_as_missing() -> None:
    if mmcv_ops_in_use()["kind"] == "compiled":
        pytest.skip("a compiled mmcv has it")
    with pytest.raises(tinyvit.detection.MissingOperatorError, match="pool_mode='max'"):
        mmcv_ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def reference_roi_pool(features: torch.Tensor, rois: torch.Tensor, size: int, scale: float) -> torch.Tensor:
    """Maximum over each bin, from the definition; differentiable."""
    height, width = features.shape[2:]
    pooled = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for i in range(size):
            top, bottom = y1 + i * (y2 - y1) / size, y1 + (i + 1) * (y2 - y1) / size
            for j in range(size):
                left, right = x1 + j * (x2 - x1) / size, x1 + (j + 1) * (x2 - x1) / size
                bin_ = features[
                    int(image),
                    :,
                    min(max(math.floor(top), 0), height) : min(max(math.ceil(bottom), 0), height),
                    min(max(math.floor(left), 0), width) : min(max(math.ceil(right), 0), width),
                ].flatten(1)
                pooled.append(bin_.amax(1) if bin_.shape[1] else features.new_zeros(features.shape[1]))
    return torch.stack(pooled).reshape(len(rois), size, size, -1).permute(0, 3, 1, 2)


def test_roi_pool_takes_the_maximum_of_each_bin(device: str) -> None:
    features = torch.randn(2, 3, 12, 14, device=device)
    rois = rois_on(2, 8, 40)
    rois[0] = torch.tensor([0, 30.3, 20.1, 70.2, 60.7])  # partly outside
    rois[1] = torch.tensor([1, 90.0, 90.0, 99.0, 99.0])  # wholly outside: zeros
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    value = mmcv_ops.roi_pool(ours, rois.to(device), 3, 0.25)
    expected = reference_roi_pool(theirs, rois, 3, 0.25)
    weights = torch.randn_like(value)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not value[1].any()


def test_roi_pool_equals_torchvision_on_whole_pixels() -> None:
    """torchvision rounds a region to pixels first; where it has none to round, the two agree."""
    features, rois = torch.randn(2, 3, 20, 20), rois_on(2, 8, 18).round()
    torch.testing.assert_close(mmcv_ops.roi_pool(features, rois, 3, 1.0), tv.roi_pool(features, rois, 3, 1.0))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
def test_sigmoid_focal_loss_equals_torchvision(device: str, reduction: str, gamma: float, alpha: float) -> None:
    logits, target = torch.randn(12, 5, device=device) * 4, torch.randint(6, (12,), device=device)  # 5: background
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = mmcv_ops.sigmoid_focal_loss(ours, target, gamma, alpha, None, reduction)
    one_hot = F.one_hot(target, 6)[:, :5].float()
    expected = tv.sigmoid_focal_loss(theirs, one_hot, alpha, gamma, reduction="none")
    if reduction != "none":
        expected = expected.sum() / (12 if reduction == "mean" else 1)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sigmoid_focal_loss_weighs_classes_and_stays_finite() -> None:
    logits = torch.tensor([[90.0, -90.0, 0.0], [-90.0, 90.0, 20.0]], requires_grad=True)
    target, weight = torch.tensor([0, 2]), torch.tensor([2.0, 1.0, 3.0])
    value = mmcv_ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    plain = tv.sigmoid_focal_loss(logits, F.one_hot(target, 3).float(), 0.25, 2.0)
    torch.testing.assert_close(value, plain * torch.tensor([[2.0], [3.0]]))
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="outside the 3 classes"):
        mmcv_ops.sigmoid_focal_loss(logits, torch.tensor([0, 3]), 2.0, 0.25, weight, "none")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_focal_loss_equals_its_formula(device: str, reduction: str, weighted: bool) -> None:
    logits, target = torch.randn(12, 5, device=device) * 3, torch.randint(5, (12,), device=device)
    weight = torch.rand(5, device=device) + 0.5 if weighted else None
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = mmcv_ops.softmax_focal_loss(ours, target, 2.0, 0.25, weight, reduction)
    p = theirs.softmax(1).gather(1, target[:, None]).squeeze(1)
    expected = -0.25 * (1 - p) ** 2 * p.log() * (weight[target] if weight is not None else 1)
    if reduction != "none":
        expected = expected.sum() / (12 if reduction == "mean" else 1)
    value_sum, expected_sum = value.sum(), expected.sum()
    expected_sum.backward()
    torch.testing.assert_close(value, expected)
    if reduction != "none":  # mmcv multiplies an (N, C) gradient by the (N,) one of the caller, which cannot work
        value_sum.backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_softmax_focal_loss_leaves_out_negative_targets() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    mmcv_ops.softmax_focal_loss(logits, torch.tensor([1, -1, 2]), 2.0, 0.25, None, "sum").backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((3, 5), (1, 2))])
def test_masked_convolution_is_a_convolution_at_the_masked_positions(device, kernel, padding) -> None:
    conv = mmcv_ops.MaskedConv2d(4, 6, kernel, padding=padding).to(device)
    image, mask = torch.randn(1, 4, 7, 9, device=device), torch.rand(1, 7, 9, device=device) > 0.6
    with torch.no_grad():
        torch.testing.assert_close(conv(image, mask), conv(image) * mask, rtol=1e-5, atol=1e-5)
        assert not conv(image, torch.zeros_like(mask)).any()
