"""TinyViT-5M distilled from a store of any teacher, for data sets of some ten thousand images and
more.

tinyvit pretrain tiny_vit_5m_distill --data IMAGES --labels STORE

AdamW, cosine per iteration and clip 5 are the official TinyViT recipes'; rate and batch are made
for one small GPU. For less: --epochs or --max-iters, --cfg-options input_size=96
student.img_size=96.
"""

student = {"name": "tiny_vit_5m_224", "img_size": 224}
input_size = 224
batch_size = 128
epochs = 90
lr = 1e-3
warmup_lr = 1e-6
min_lr = 1e-5
warmup_epochs = 5
weight_decay = 0.01
clip_grad = 5.0
