"""What lies in a shard file: the schemas of clips, masks and the index, and how a frame and a mask are packed.

Frames and masks are `list<binary>` without dictionary, statistics or compression, one row a row group, so that one
clip is read by a few small ranges of the file. Nothing is pickled.
"""

import hashlib
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.choices import FrameCodec
from sttn_ray.errors import ShardError

MASK_CODEC = "packbits+zlib"

CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_sha256", pa.string()),
        ("source", pa.string()),  # path below the corpus's root
        ("start", pa.int64()),  # number of the first frame in the video; the clip has len(frames)
        ("pts", pa.list_(pa.int64())),
        ("time_base_num", pa.int64()),
        ("time_base_den", pa.int64()),
        ("fps_num", pa.int64()),
        ("fps_den", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("split", pa.string()),
        ("codec", pa.string()),
        ("frames", pa.list_(pa.binary())),
    ]
)
MASK_SCHEMA = pa.schema(
    [
        ("mask_id", pa.string()),
        ("family", pa.string()),
        ("seed", pa.int64()),  # null for masks that were read
        ("source", pa.string()),  # null for masks that were drawn
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("codec", pa.string()),
        ("masks", pa.list_(pa.binary())),
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        ("table", pa.string()),  # "clips" or "masks"
        ("id", pa.string()),
        ("split", pa.string()),
        ("family", pa.string()),
        ("source", pa.string()),
        ("num_frames", pa.int32()),
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("num_bytes", pa.int64()),  # of the row's frames or masks
        ("sha256", pa.string()),  # of the same
        ("file_sha256", pa.string()),
    ]
)
SCHEMAS = {"clips": CLIP_SCHEMA, "masks": MASK_SCHEMA}


def pack_frame(picture: NDArray[np.uint8], codec: FrameCodec, quality: int) -> bytes:
    """A picture (height, width, 3) RGB as JPEG with 4:2:0 chroma, or lossless as PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    if codec == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def unpack_frame(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The picture (height, width, 3) RGB.

    Raises:
        ShardError: it is damaged, or of another size.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.size != (width, height) or image.mode != "RGB":
            raise ShardError(f"a frame is {image.mode} {image.width}x{image.height}, expected RGB {width}x{height}")
        return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ShardError(f"a frame is damaged ({error})") from error


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """A mask (height, width) at eight pixels a byte, compressed."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpack_mask(data: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width).

    Raises:
        ShardError: it is damaged, or of another size.
    """
    limit = -(-height * width // 8)
    try:
        # Never more than the picture needs, whatever the data claim.
        bits = zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error as error:
        raise ShardError(f"a mask is damaged ({error})") from error
    if len(bits) != limit:
        raise ShardError(f"a mask holds {len(bits)} bytes, expected {limit} for {width}x{height}")
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width)
    return unpacked.reshape(height, width).astype(bool)


def rows_sha256(parts: Sequence[bytes]) -> str:
    """Hex sha256 over a row's frames or masks, with their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def one_row(row: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of one row."""
    return pa.Table.from_pylist([row], schema)
