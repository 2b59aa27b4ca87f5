"""Sound for TensorBoard and files. Samples lie in [-1, 1]."""

import io
import wave

import numpy as np
import torch
from jaxtyping import Float
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

PEAK = 0.9


def normalised(samples: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """As loud as can be without a sample that is clipped; silence stays silent."""
    loudest = samples.abs().max() if len(samples) else torch.zeros(())
    return samples * (PEAK / loudest) if loudest > 0 else samples


def wav(samples: Float[Tensor, "n"], rate: int) -> bytes:
    """A WAV file of one channel and 16 bits. What lies outside of [-1, 1] is clipped. `rate`: samples a second."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.detach().cpu().clamp(-1, 1) * 32767).round().short().numpy().astype("<i2").tobytes())
    return content.getvalue()


def samples(content: bytes) -> tuple[Float[Tensor, "n"], int]:
    """(samples, how many a second) of a WAV file as `wav` makes one. Raises ValueError for another kind."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise ValueError("a WAV file of another kind than one channel of 16 bits")
            found = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
            return torch.from_numpy(found / 32767), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"no WAV file: {error}") from error


def add_sound(writer: SummaryWriter, tag: str, samples: Float[Tensor, "n"], rate: int, step: int) -> None:
    """Sound among TensorBoard's audio, which SummaryWriter.add_audio would need soundfile for."""
    value = Summary.Audio(
        sample_rate=rate, num_channels=1, length_frames=len(samples), content_type="audio/wav",
        encoded_audio_string=wav(samples, rate),
    )  # fmt: skip
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, audio=value)]), step)
