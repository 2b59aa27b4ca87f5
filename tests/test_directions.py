"""lib/tasks/directions.py: the directions in which pictures change most, and the verb that moves along them."""

import io

import pytest
import torch
from PIL import Image

from experiments import exp_dcgan_faces, exp_vae_faces
from lib.tasks import directions
from tests.flags import flags


def test_directions_of_a_linear_model_are_its_singular_vectors():
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(3 * 4 * 4, 6, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    sizes = torch.tensor([1.0, 9.0, 3.0, 5.0, 7.0, 2.0])
    found = directions.directions(lambda z: (z @ (left * sizes @ right.T).T).view(-1, 3, 4, 4), 6, k=4)
    expected = right.T[sizes.argsort(descending=True)][:4]
    torch.testing.assert_close((found @ expected.T).abs(), torch.eye(4), atol=1e-4, rtol=0)
    assert bool((found.amax(1) > -found.amin(1)).all())


TINY = {"faces": 40, "size": 16, "width": 8, "batch": 8, "steps": 1, "compile": "off", "device": "cpu"}


@pytest.mark.parametrize(("exp", "more"), [(exp_dcgan_faces, {"latent": 9}), (exp_vae_faces, {"code": 9})])
def test_a_face_moves(call, tmp_path, exp, more):
    status, _, told = call(exp, *flags(run=tmp_path / "run", **TINY, **more))
    assert status == 0, told

    def made(*words):
        assert call(exp, "sample", "move", "--run", tmp_path / "run", *words)[0] == 0
        content = (tmp_path / "moved.png").read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (80, 80)
        return content

    still, far = made(), ["--by", "6", *["0"] * 7]
    assert still == made("--by", *["0"] * 8) != made(*far)
    assert made("--number", "1") != still
    status, _, told = call(exp, "sample", "move", "--run", tmp_path / "run", "--by", "7", *["0"] * 7)
    assert status == 2 and "at most 6" in told
