import subprocess
import sys

import gradcam_gan


def test_every_public_name_is_importable():
    assert {"TrainingConfig", "train", "load_run", "load_images", "explain", "calibrate", "measure"} <= set(
        gradcam_gan.__all__
    )
    for name in gradcam_gan.__all__:
        assert getattr(gradcam_gan, name).__name__ == name


def test_a_configuration_needs_no_torch():
    code = "import sys; from gradcam_gan import Study, TrainingConfig; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
