# %% [markdown]
# # usb-active in a notebook
#
# This file is a script and a notebook: editors and jupytext take each `# %%` for a cell. It trains on scikit-learn's digits, which need
# no download, and ends in well under a minute on a CPU.

# %%
from usb_active import load_config, open_run, run

# %% [markdown]
# A configuration is a YAML file, the name of a packaged one, or a dict. Texts as after `--set` are put over it: here trainings much
# shorter than the quick start's, which is then no more than a demonstration.

# %%
config = load_config(
    "quickstart",
    ["save_name=notebook", "num_train_iter=60", "num_eval_iter=20", "ema_m=0.9", "active.cycles=1"],
)
print(config.run_path)

# %% [markdown]
# A line for each cycle. Interrupt it at any time: the same call resumes. Where labels come from people, it raises `WaitingForLabels`, which
# says where to write them; the same call then resumes.

# %%
digits = run(config)

# %% [markdown]
# Tables are DataFrames where pandas is installed, else lists of dicts.

# %%
metrics = digits.metrics()
metrics

# %%
labels = digits.labels()
labels

# %% [markdown]
# Of samples without a label, the class that the last model finds most probable. `predictions("a/folder")` and
# `predictions([image, "a/file.png"])` do the same for other images.

# %%
predictions = digits.predictions()
predictions

# %% [markdown]
# The model itself: a network in eval mode, and the transform that makes its input of a PIL image, an array of uint8, or a path.

# %%
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

network, transform, class_names = digits.model()
image = Image.fromarray((load_digits().images[0] * 255 / 16).astype(np.uint8))
with torch.no_grad():
    batch = transform(image)[None].to(next(network.parameters()).device)
    probs = torch.softmax(network(batch)["logits"][0], dim=0)
print({name: round(float(prob), 3) for name, prob in zip(class_names, probs, strict=True)})

# %% [markdown]
# All of it is on disk. `open_run` opens a run of yesterday, or one that you were given: plugins that are not installed here are then not
# executed, unless you say `trust_plugins=True`.

# %%
again = open_run(digits.path)
assert len(again.labels()) == len(labels)
print(*again.report(), sep="\n")
