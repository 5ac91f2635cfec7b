"""Audio where stored features are expected, and the other way round."""

import pytest

from espnet_ext.errors import UserError
from espnet_ext.ssl.data import check_unlabelled


@pytest.mark.parametrize(
    ("there", "rate", "message"),
    [
        ("feats.scp", None, None),  # nothing here is audio, whose rate could be looked at
        ("feats.scp", 16000, r"wav.scp: no such file, but the model reads it \(there is feats.scp\)"),
        ("wav.scp", None, r"feats.scp: no such file, but the model reads it \(there is wav.scp\)"),
    ],
)
def test_what_the_model_reads_is_there(tmp_path, there, rate, message):
    (tmp_path / there).write_text("one archive.ark:4\n")
    (tmp_path / "speech_shape").write_text("one 200,80\n")
    if message is None:
        check_unlabelled(str(tmp_path), str(tmp_path), rate)
        return
    with pytest.raises(UserError, match=message):
        check_unlabelled(str(tmp_path), str(tmp_path), rate)
