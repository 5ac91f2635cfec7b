"""Package metadata of espnet_ext.

`make setup` installs the package with the exact versions of tools/requirements.txt; what stands here is what
another environment must provide. ESPnet, torch and torchaudio are exact: espnet_ext relies on the inside of
ESPnet, and torchaudio loads only beside the torch it was built with.
"""

from setuptools import find_packages, setup

setup(
    name="espnet_ext",
    version="0.1.0",
    description="ESPnet recipes that train speech recognisers beyond plain supervised training",
    long_description="See README.md.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["espnet_ext", "espnet_ext.*"]),
    package_data={"espnet_ext": ["**/*.yaml", "launch/job.sh", "report/assets/*"]},
    install_requires=[
        "espnet==202511",
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "rapidfuzz>=3.9",
        "kaldialign>=0.9",
        "kaldiio>=2.18",
        "matplotlib>=3.8",
        "numpy>=2.0",
        "pyyaml>=6.0",
        "scipy>=1.11",
        "sentencepiece>=0.2.0",
        "soundfile>=0.12",
        "soxr>=0.3",
        "tensorboard>=2.15",
        "threadpoolctl>=3.0",
        "torch_complex>=0.4.4",
        "tqdm>=4.60",
    ],
    extras_require={
        "huggingface": ["transformers>=5.0", "safetensors>=0.4"],
        "test": ["pytest>=8.0", "ruff>=0.12", "jiwer>=4.0"],
    },
    entry_points={
        "espnet_ext.tasks": [
            "asr = espnet_ext.asr.task:ASRTask",
            "transducer = espnet_ext.asr.transducer_task:TransducerTask",
            "ssl = espnet_ext.ssl.task:SSLTask",
            "gan = espnet_ext.gan.task:GANTask",
            "bilevel = espnet_ext.bilevel.task:BilevelTask",
            "bilevel_transducer = espnet_ext.bilevel.task:BilevelTransducerTask",
            "lm_transfer = espnet_ext.lm_transfer.task:LMTransferTask",
            "lm_transfer_transducer = espnet_ext.lm_transfer.task:LMTransferTransducerTask",
            "distillation = espnet_ext.distillation.task:DistillationTask",
            "distillation_encoder = espnet_ext.distillation.encoder_task:EncoderTask",
            "mutual_learning = espnet_ext.mutual_learning.task:MutualLearningTask",
        ]
    },
)
