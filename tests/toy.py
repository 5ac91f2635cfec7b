"""The configuration of the smallest recogniser that trains, for tests that run trainings or whole recipes."""

TOY = {
    "frontend": "default",
    "frontend_conf": {"fs": 16000, "n_fft": 256, "hop_length": 160, "n_mels": 20},
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "num_blocks": 1,
        "cgmlp_linear_units": 32,
        "cgmlp_conv_kernel": 7,
        "use_ffn": True,
        "linear_units": 32,
        "dropout_rate": 0.1,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.1},
    "optim": "adamw",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmupdecay",
    "scheduler_conf": {"warmup_steps": 3},
    "num_workers": 0,
}
