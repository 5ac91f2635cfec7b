"""Decoding stored filterbanks with a model that has no front end of its own."""

import kaldiio
import numpy
import yaml

from espnet_ext.bin.decode import main


def test_stored_features(make_export, tmp_path, capsys):
    export, data = make_export(input_size=20, frontend=None), tmp_path / "data"
    data.mkdir()
    matrices = {
        f"utt{i}": numpy.random.default_rng(i).normal(size=(60 + 20 * i, 20)).astype("f") for i in range(3)
    }
    kaldiio.save_ark(str(data / "feats.ark"), matrices, scp=str(data / "feats.scp"))
    lengths = "".join(f"{name} {len(matrix)}\n" for name, matrix in matrices.items())
    (data / "utt2num_frames").write_text(lengths)
    config = tmp_path / "decode.yaml"
    config.write_text(yaml.safe_dump({"method": "ctc_greedy"}))
    arguments = ["--model_dir", export, "--data_dir", data, "--config", config, "--out_dir", tmp_path / "out"]
    assert main(list(map(str, arguments))) == 0
    assert "3 utterances, 2 s of audio" in capsys.readouterr().out
    assert len((tmp_path / "out" / "text").read_text().splitlines()) == 3

    wrong = {name: matrix[:, :10] for name, matrix in matrices.items()}
    kaldiio.save_ark(str(data / "feats.ark"), wrong, scp=str(data / "feats.scp"))
    assert main(list(map(str, arguments))) == 1
    assert "the model expects 20 features" in capsys.readouterr().err
