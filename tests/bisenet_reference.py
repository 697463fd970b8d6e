"""BiSeNet written a second time, as plain functions over a state dict, and random weights that use every class."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from musetalk_core.nets.bisenet import BiSeNet

_RARE = [0, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 18]


def random_bisenet(seed=0):
    """A BiSeNet in evaluation mode whose labels on noise contain the classes that the masks use."""
    generator = torch.Generator().manual_seed(seed)
    net = BiSeNet().train(False).requires_grad_(False)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim == 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            value.copy_(centre + 0.3 * torch.randn(value.shape, generator=generator))
        else:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
    _spread_classes(net, generator)
    return net


def _spread_classes(net, generator):
    means = []
    hook = net.conv_out.conv.register_forward_hook(lambda _, __, out: means.append(out.mean((0, 2, 3))))
    net(F.interpolate(torch.randn(1, 3, 16, 16, generator=generator), size=256, mode="bicubic"))
    hook.remove()
    weight = net.conv_out.conv_out.weight[:, :, 0, 0]
    weight[_RARE] *= 0.3
    weight -= torch.outer(weight @ means[0] / means[0].square().sum(), means[0])


def reference_scores(state, pixels):
    """(B,3,H,W) -> (B,19,H,W): arXiv:1808.00897 on ResNet-18, read off the checkpoint's key names."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name, x):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / torch.sqrt(var + 1e-5)
        shift = state[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def unit(name, x):
        return norm(f"{name}.bn", conv(f"{name}.conv", x)).clamp(min=0)

    def block(name, x, stride):
        hidden = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)).clamp(min=0)
        hidden = norm(f"{name}.bn2", conv(f"{name}.conv2", hidden))
        if f"{name}.downsample.0.weight" in state:
            x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
        return (x + hidden).clamp(min=0)

    def layer(number, x):
        x = block(f"cp.resnet.layer{number}.0", x, 1 if number == 1 else 2)
        return block(f"cp.resnet.layer{number}.1", x, 1)

    def mean(x):
        return x.mean((2, 3), keepdim=True)

    def refine(name, x):
        x = unit(f"{name}.conv", x)
        return x * norm(f"{name}.bn_atten", conv(f"{name}.conv_atten", mean(x))).sigmoid()

    def double(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = norm("cp.resnet.bn1", conv("cp.resnet.conv1", pixels, 2)).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    at8 = layer(2, layer(1, x))
    at16 = layer(3, at8)
    at32 = layer(4, at16)
    context = refine("cp.arm32", at32) + unit("cp.conv_avg", mean(at32))
    context = unit("cp.conv_head32", double(context)) + refine("cp.arm16", at16)
    context = unit("cp.conv_head16", double(context))
    fused = unit("ffm.convblk", torch.cat([at8, context], 1))
    gate = conv("ffm.conv2", conv("ffm.conv1", mean(fused)).clamp(min=0)).sigmoid()
    scores = conv("conv_out.conv_out", unit("conv_out.conv", fused + fused * gate))
    return F.interpolate(scores, pixels.shape[-2:], mode="bilinear", align_corners=True)


def reference_labels(state, region):
    """(h,w,3) uint8 -> scores (19,512,512) and labels (512,512) of one region."""
    picture = np.asarray(Image.fromarray(region).resize((512, 512), Image.BILINEAR)).astype(np.float32) / 255
    picture = (picture - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    scores = reference_scores(state, torch.from_numpy(picture.transpose(2, 0, 1))[None])[0].numpy()
    return scores, scores.argmax(0)
