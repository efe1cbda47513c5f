"""mmcv's compiled operators on torchvision's kernels and plain PyTorch, CPU and CUDA.

Each public function has the name and the arguments of a function of ``mmcv._ext``, and mmcv calls
both in the same way. Results are written into tensors of the caller. The mathematics is that of
mmcv's kernels, so a model computes the same with either. :mod:`.mmcv_ext` puts these operators and
those of :mod:`.mmcv_deform` in place; nothing else calls them.

Precision: a kernel that does not exist in a half precision runs in fp32 and its result is cast
back.

Shape letters: N boxes or regions, B images, C channels or classes, H and W of a feature map, h and
w of a pooled one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .mmcv_missing import missing_operator

# Registered operators that torchvision's own autograd formulas call; autograd itself would repeat
# the forward pass. `torch.ops.torchvision._roi_align_backward.default._schema` shows the arguments.
_torchvision = torch.ops.torchvision


def full_precision(tensor: Tensor) -> Tensor:
    """Return the tensor in a type that every kernel supports on every device."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that stay, by falling score.

    Args:
        boxes: Corners x1, y1, x2, y2, (N, 4).
        scores: (N,).
        iou_threshold: A box is dropped when its overlap with a better one is above this.
        offset: 0, or 1 where x2 and y2 are inclusive pixel indices.
    """
    boxes, scores = full_precision(boxes), full_precision(scores)
    if offset:
        # A width of x2 - x1 + 1 is the width of the box whose far corner is one further.
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)


_SOFT_NMS_METHODS = ("naive", "linear", "gaussian")


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017): overlapping boxes lose score instead of being dropped.

    Args:
        boxes: Corners, (N, 4), on the CPU.
        scores: (N,), on the CPU.
        dets: Output (N, 5): corners and new score of the boxes that stay, in the order of the
            returned indices.
        iou_threshold: Overlap from which ``naive`` and ``linear`` act.
        sigma: Width of ``gaussian``.
        min_score: A box that falls below this score is dropped.
        method: 0 naive, 1 linear, 2 gaussian.
        offset: 0, or 1 where x2 and y2 are inclusive pixel indices.

    Returns:
        Indices into ``boxes`` of those that stay, by falling new score.
    """
    corners = full_precision(boxes.detach()).cpu().numpy()
    # Column layout x1, y1, x2, y2, score, area, index; a row is swapped as a whole.
    x1, y1, x2, y2 = corners.T
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    score = scores.detach().cpu().numpy().astype(corners.dtype)
    rows = np.column_stack((corners, score, area))
    order = np.arange(len(rows))

    alive, i = len(rows), 0
    while i < alive:
        best = i + int(rows[i:alive, 4].argmax())
        rows[[i, best]], order[[i, best]] = rows[[best, i]], order[[best, i]]
        rest = rows[i + 1 : alive]
        overlap = _overlap_with(rows[i], rest, offset)
        if _SOFT_NMS_METHODS[method] == "gaussian":
            rest[:, 4] *= np.exp(-(overlap**2) / sigma)
        else:
            kept = 1 - overlap if _SOFT_NMS_METHODS[method] == "linear" else 0
            rest[:, 4] *= np.where(overlap >= iou_threshold, kept, 1)
        alive = _drop_low_scores(rows, order, i + 1, alive, min_score)
        i += 1

    dets[:alive] = torch.from_numpy(rows[:alive, :5]).to(dets.dtype)
    return torch.from_numpy(order[:alive])


def _overlap_with(row: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the intersection over union of one row with others."""
    width = np.minimum(row[2], others[:, 2]) - np.maximum(row[0], others[:, 0]) + offset
    height = np.minimum(row[3], others[:, 3]) - np.maximum(row[1], others[:, 1]) + offset
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    return intersection / (row[5] + others[:, 5] - intersection)


def _drop_low_scores(rows: np.ndarray, order: np.ndarray, start: int, alive: int, min_score: float) -> int:
    """Overwrite each low-scoring row by the last one alive, as mmcv does; return the number alive.

    The order of equal scores depends on it.
    """
    position = start
    while position < alive:
        low = np.flatnonzero(rows[position:alive, 4] < min_score)
        if not len(low):
            break
        position += int(low[0])
        alive -= 1
        rows[position], order[position] = rows[alive], order[alive]
    return alive


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign with average pooling.

    Args:
        input: (B, C, H, W).
        rois: Image index and corners, (N, 5).
        output: Output (N, C, aligned_height, aligned_width).
        argmax_y: Used by maximum pooling alone.
        argmax_x: Used by maximum pooling alone.
        aligned_height: h.
        aligned_width: w.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 or less takes as many as the bin is pixels long,
            rounded up.
        pool_mode: 1 average.
        aligned: Shift coordinates by half a pixel (the correct form).

    Raises:
        MissingOperatorError: ``pool_mode`` is 0 (maximum).
    """
    _check_average(pool_mode, "roi_align_forward")
    map_ = full_precision(input)
    pooled = _torchvision.roi_align(
        map_, rois.to(map_.dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` by its input into ``grad_input``
    (B, C, H, W).
    """
    _check_average(pool_mode, "roi_align_backward")
    grad = full_precision(grad_output)
    grad_input.copy_(
        _torchvision._roi_align_backward(
            grad,
            rois.to(grad.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _check_average(pool_mode: int, name: str) -> None:
    if pool_mode != 1:
        raise missing_operator(f"{name} with pool_mode='max'")


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoI maximum pooling with mmcv's bins.

    torchvision's kernel has other bins, because it rounds the region first.

    Args:
        input: (B, C, H, W).
        rois: Image index and inclusive corners, (N, 5).
        output: Output (N, C, pooled_height, pooled_width); an empty bin is 0.
        argmax: Output of the same shape, int32: position of the maximum in the map, row by row; -1
            for an empty bin.
        pooled_height: h.
        pooled_width: w.
        spatial_scale: Feature map pixels per image pixel.
    """
    output.zero_()
    argmax.fill_(-1)
    # fp32 on the host, like the kernel: a bin border on a pixel must fall on the same side.
    regions = rois.detach().float().cpu().numpy()
    scale = np.float32(spatial_scale)
    for n, (image, x1, y1, x2, y2) in enumerate(regions):
        rows = _bins(y1 * scale, (y2 + 1) * scale, pooled_height, input.shape[2])
        columns = _bins(x1 * scale, (x2 + 1) * scale, pooled_width, input.shape[3])
        _pool_region(input[int(image)], rows, columns, output[n], argmax[n])


def _bins(first: np.float32, past: np.float32, count: int, size: int) -> list[tuple[int, int, int]]:
    """Return number, first and past-the-last pixel of each bin of one axis; bins that are empty
    inside the map are left out.
    """
    step = (past - first) / np.float32(count)
    if step <= 0:
        return []
    index = np.arange(count, dtype=np.float32)
    low = np.floor(index * step + first).clip(0, size).astype(int)
    high = np.ceil((index + 1) * step + first).clip(0, size).astype(int)
    return [(i, a, b) for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)) if b > a]


def _pool_region(
    map_: Tensor,
    rows: list[tuple[int, int, int]],
    columns: list[tuple[int, int, int]],
    output: Tensor,
    argmax: Tensor,
) -> None:
    """Write the maximum of one (C, H, W) map over each bin: along the rows, then down the columns
    of the result.
    """
    for j, left, right in columns:
        best, at = map_[:, :, left:right].max(dim=2)  # (C, H)
        for i, top, bottom in rows:
            value, row = best[:, top:bottom].max(dim=1)  # (C,)
            column = at[:, top:bottom].gather(1, row[:, None]).squeeze(1) + left
            output[:, i, j] = value
            argmax[:, i, j] = ((row + top) * map_.shape[2] + column).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of :func:`roi_pool_forward` by its input to ``grad_input`` (B, C, H, W)."""
    n, channels = argmax.shape[:2]
    grad = grad_output.reshape(n, channels, -1)
    position = argmax.reshape(n, channels, -1).long()
    grad = grad.masked_fill(position < 0, 0)
    per_region = grad.new_zeros((n, channels, grad_input.shape[-2] * grad_input.shape[-1]))
    per_region.scatter_add_(2, position.clamp(min=0), grad)
    grad_input.index_add_(0, rois[:, 0].long(), per_region.reshape(n, *grad_input.shape[1:]))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of independent classes (Lin et al., 2017), per element.

    Args:
        input: Logits (N, C).
        target: Class indices (N,), int64; C is background.
        weight: A weight per class (C,), or empty. A row has the weight of its target.
        output: Output (N, C).
        gamma: Focusing exponent.
        alpha: Weight of the positive term; the negative one has 1 - alpha.
    """
    positive = _one_hot(target, input)
    x = full_precision(input)
    p = x.sigmoid()
    loss_positive = -alpha * (1 - p) ** gamma * F.logsigmoid(x)
    loss_negative = -(1 - alpha) * p**gamma * F.logsigmoid(-x)
    output.copy_(torch.where(positive, loss_positive, loss_negative) * _class_weight(weight, target, "sigmoid"))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each element of :func:`sigmoid_focal_loss_forward` by its logit into
    ``grad_input``.
    """
    positive = _one_hot(target, input)
    x = full_precision(input)
    p = x.sigmoid()
    grad_positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(x))
    grad_negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * F.logsigmoid(-x) - p)
    grad_input.copy_(torch.where(positive, grad_positive, grad_negative) * _class_weight(weight, target, "sigmoid"))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of exclusive classes, per row.

    Args:
        softmax: Probabilities (N, C), not logits.
        target: Class indices (N,), int64; a negative one has no loss.
        weight: A weight per class (C,), or empty.
        output: Output (N,).
        gamma: Focusing exponent.
        alpha: Weight of the loss.
    """
    p, valid = _probability_of(target, softmax)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=torch.finfo(torch.float32).tiny).log()
    output.copy_(loss * valid * _class_weight(weight, target, "softmax").reshape(-1))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of :func:`softmax_focal_loss_forward` by the *logits* into
    ``grad_input`` (N, C).
    """
    p, valid = _probability_of(target, softmax)
    log_p = p.clamp(min=torch.finfo(torch.float32).tiny).log()
    factor = alpha * (gamma * (1 - p) ** (gamma - 1) * p * log_p - (1 - p) ** gamma)
    buff.copy_(factor * valid * _class_weight(weight, target, "softmax").reshape(-1))
    grad_input.copy_(buff[:, None] * (_one_hot(target, softmax).to(softmax.dtype) - softmax))


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    """Return targets (N,) as bool (N, C); a target outside 0..C-1 gives a row of False."""
    return target[:, None] == torch.arange(like.shape[1], device=like.device)


def _probability_of(target: Tensor, softmax: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each row's target, and 1 for rows with a target, else 0."""
    probabilities = full_precision(softmax)
    p = probabilities.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return p, (target >= 0).to(p.dtype)


def _class_weight(weight: Tensor, target: Tensor, kind: str) -> Tensor:
    """Return the weight of each row's target class as (N, 1), or 1 where no weights are given."""
    if weight.numel() == 0:
        return weight.new_ones(1, 1)
    if bool(((target < 0) | (target >= weight.numel())).any()):
        raise ValueError(
            f"{kind}_focal_loss: a target is outside the {weight.numel()} classes that have a weight; "
            "pass weight=None and weigh the loss afterwards"
        )
    return weight[target][:, None]


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gather the patches that a masked convolution of stride 1 reads.

    Args:
        im: (1, C, H, W).
        mask_h_idx: Rows of the M output positions, (M,).
        mask_w_idx: Their columns, (M,).
        col: Output (C * kernel_h * kernel_w, M).
        kernel_h: Height of a patch.
        kernel_w: Width of a patch.
        pad_h: Zeros above and below the map.
        pad_w: Zeros left and right of the map.
    """
    patches = F.unfold(im, (kernel_h, kernel_w), padding=(pad_h, pad_w))[0]
    width = im.shape[3] + 2 * pad_w - kernel_w + 1
    col.copy_(patches[:, mask_h_idx * width + mask_w_idx])


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, *, height: int, width: int, channels: int
) -> None:
    """Write the outputs (channels, M) of a masked convolution to their positions in ``im``
    (1, channels, height, width).
    """
    im[0, :, mask_h_idx, mask_w_idx] = col


def get_compiler_version() -> str:
    """Return the text that mmcv reports as its compiler."""
    import torchvision

    return f"none: tinyvit runs mmcv's operators on torchvision {torchvision.__version__}"


def get_compiling_cuda_version() -> str:
    """Return the text that mmcv reports as the CUDA version of its compiler."""
    return str(torch.version.cuda or "not available")


#: The operators of this module that ``mmcv._ext`` has.
OPERATORS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    softmax_focal_loss_forward,
    softmax_focal_loss_backward,
    masked_im2col_forward,
    masked_col2im_forward,
    get_compiler_version,
    get_compiling_cuda_version,
)
