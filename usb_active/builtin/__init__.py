"""What the core itself brings as plugins, declared without importing it."""

from __future__ import annotations

from usb_active.contracts.registry import Declaration

_USB_ALGORITHMS = {
    "adamatch": "AdaMatch",
    "comatch": "CoMatch",
    "crmatch": "CRMatch",
    "dash": "Dash",
    "defixmatch": "DeFixMatch",
    "fixmatch": "FixMatch",
    "flexmatch": "FlexMatch",
    "freematch": "FreeMatch",
    "fullysupervised": "FullySupervised",
    "meanteacher": "MeanTeacher",
    "mixmatch": "MixMatch",
    "pimodel": "PiModel",
    "pseudolabel": "PseudoLabel",
    "remixmatch": "ReMixMatch",
    "simmatch": "SimMatch",
    "softmatch": "SoftMatch",
    "uda": "UDA",
    "vat": "VAT",
}
_USB_NETWORKS = {
    "resnet50": "ResNet-50",
    "vit_base_patch16_224": "ViT-B, patches of 16, images of 224",
    "vit_base_patch16_96": "ViT-B, patches of 16, images of 96",
    "vit_small_patch16_224": "ViT-S, patches of 16, images of 224",
    "vit_small_patch2_32": "ViT-S, patches of 2, images of 32",
    "vit_tiny_patch2_32": "ViT-Ti, patches of 2, images of 32",
    "wrn_28_2": "wide ResNet 28-2",
    "wrn_28_8": "wide ResNet 28-8",
    "wrn_var_37_2": "wide ResNet 37-2, for STL-10",
}

_HERE = f"{__name__}."

PLUGINS = [
    Declaration("initial_labels", "file", _HERE + "file_plugins:FileLabels", "labels of a CSV (key or index, label); no query"),
    Declaration("initial_labels", "known", _HERE + "file_plugins:KnownLabels", "the labels that the data set brings; no query"),
    Declaration("initial_labels", "other_run", _HERE + "other_run:OtherRun", "the labels and skips of another run; no query"),
    Declaration("features", "model", _HERE + "feature_sources:ModelFeatures", "the task model of this cycle, EMA weights"),
    Declaration("features", "pretrain", _HERE + "feature_sources:PretrainFeatures", "the pretrained backbone"),
    Declaration("features", "pixels", _HERE + "feature_sources:PixelFeatures", "the normalised pixels, for tiny images"),
    Declaration("features", "file", _HERE + "feature_sources:FileFeatures", "an array on disk (.npy)"),
    Declaration("features", "timm", _HERE + "feature_sources:TimmFeatures", "a timm network whose weights are on disk"),
    Declaration("features", "efficientnet_lite0", _HERE + "bundled_features:EfficientNetLite0", "ImageNet's, from a package"),
    Declaration("prior", "file", _HERE + "file_plugins:FilePrior", "a table of class probabilities on disk (.npy)"),
    Declaration("pretrainer", "file", _HERE + "file_plugins:FilePretrainer", "initial weights from a checkpoint on disk"),
    Declaration("oracle", "dataset", _HERE + "oracles:DatasetOracle", "simulated: the data set's own labels"),
    Declaration("oracle", "csv", _HERE + "oracles:CsvOracle", "a person, through a CSV file"),
    Declaration("dataset", "cifar10", _HERE + "array_datasets:Cifar10", "CIFAR-10, from its files on disk"),
    Declaration("dataset", "cifar100", _HERE + "array_datasets:Cifar100", "CIFAR-100, from its files on disk"),
    Declaration("dataset", "svhn", _HERE + "array_datasets:Svhn", "SVHN (train + extra, or train), from its files on disk"),
    Declaration("dataset", "stl10", _HERE + "array_datasets:Stl10", "STL-10, from its files on disk; 5,000 of 105,000 can be queried"),
    Declaration("dataset", "digits", _HERE + "array_datasets:Digits", "scikit-learn's 8x8 digits, embedded"),
    Declaration("dataset", "mnist", _HERE + "array_datasets:Mnist", "MNIST, 28x28, from its IDX files on disk"),
    Declaration("dataset", "image_folder", _HERE + "image_folder:ImageFolder", "a folder of images of one's own"),
    Declaration("network", "small_cnn", _HERE + "networks:SmallCnn", "three convolutions, for tiny images on a CPU"),
    Declaration("network", "resnet18", _HERE + "networks:ResNet18", "torchvision's ResNet-18 with an embedding of 256; or for CIFAR"),
    Declaration("network", "vit_small", _HERE + "networks:VitSmall", "timm's ViT-S for any image size"),
    Declaration("network", "cnn13", _HERE + "networks:Cnn13", "the 13-layer network of Mean Teacher, normalised features of 128"),
    Declaration("network", "linear", _HERE + "networks:Linear", "a linear classifier, of features or of very small images"),
    Declaration("network", "mlp", _HERE + "networks:Mlp", "one hidden layer, on features or on very small images"),
    *(Declaration("network", name, _HERE + "networks:UsbNetwork", f"USB's {what}") for name, what in _USB_NETWORKS.items()),
    *(
        Declaration("algorithm", name, f"semilearn.algorithms.{name}:{cls}", f"USB's {cls}")
        for name, cls in _USB_ALGORITHMS.items()
    ),
    Declaration("algorithm", "supervised", "semilearn.algorithms.fullysupervised:FullySupervised", "USB's FullySupervised"),
]  # fmt: skip
