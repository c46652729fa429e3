"""The native code of csrc/, where it is built: addresses and sizes; see ssfnas/ops/native.py."""

from collections.abc import Sequence

cuda_architectures: str
max_inputs: int

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def choose_instruction_set(name: str) -> None: ...
def mixed_sum_partials(dtype: int, length: int, count: int, /) -> int: ...
def norm_partials(
    dtype: int, tensors: Sequence[int], extent: tuple[int, int, int], rows: int, /
) -> int: ...
def mixed_sum_forward(
    device: int,
    threads: int,
    dtype: int,
    xs: Sequence[int],
    weights: int,
    out: int,
    length: int,
    /,
) -> None: ...
def mixed_sum_backward(
    device: int,
    threads: int,
    dtype: int,
    grad: int,
    xs: Sequence[int],
    weights: int,
    dxs: Sequence[int],
    dweights: int,
    length: int,
    partials: int,
    /,
) -> None: ...
def norm_statistics(
    device: int,
    threads: int,
    dtype: int,
    zs: Sequence[int],
    extent: Sequence[int],
    mean: int,
    var: int,
    partials: int,
    /,
) -> None: ...
def norm_sum_forward(
    device: int,
    threads: int,
    dtype: int,
    zs: Sequence[int],
    extent: Sequence[int],
    a: int,
    b: int,
    out: int,
    factors: int,
    images: int,
    /,
) -> None: ...
def norm_sum_reduce(
    device: int,
    threads: int,
    dtype: int,
    grad: int,
    zs: Sequence[int],
    extent: Sequence[int],
    mean: int,
    rstd: int,
    s0: int,
    s1: int,
    partials: int,
    factors: int,
    images: int,
    /,
) -> None: ...
def norm_sum_apply(
    device: int,
    threads: int,
    dtype: int,
    grad: int,
    zs: Sequence[int],
    extent: Sequence[int],
    p: int,
    q: int,
    r: int,
    dzs: Sequence[int],
    /,
) -> None: ...

class Units:
    def __init__(
        self,
        dtype: int,
        image: tuple[int, int, int, int, int],
        sizes: Sequence[int],
        dilations: Sequence[int],
        depthwise: Sequence[int],
        pointwise: Sequence[int],
        xs: Sequence[int],
        shared: bool,
        scale: int,
        shift: int,
        /,
    ) -> None: ...

def separable_forward(
    threads: int, units: Units, zs: Sequence[int], mean: int, var: int, /
) -> None: ...
def separable_backward(
    threads: int,
    units: Units,
    zs: Sequence[int],
    grads: Sequence[int],
    p: int,
    q: int,
    r: int,
    into: int,
    dxs: Sequence[int],
    s0: int,
    s1: int,
    center: int,
    factors: int,
    d_depthwise: Sequence[int],
    d_pointwise: Sequence[int],
    /,
) -> None: ...
def enter_statistics(
    dtype: int,
    sizes: tuple[int, int, int],
    table: int,
    start: int,
    mean: int,
    var: int,
    gamma: int,
    beta: int,
    eps: float,
    /,
) -> None: ...
def node_coefficients(
    dtype: int,
    sizes: tuple[int, int, int],
    table: int,
    rows: int,
    weights: int,
    places: int,
    separate: bool,
    out: int,
    b: int,
    /,
) -> None: ...
def gradient_coefficients(
    dtype: int,
    sizes: tuple[int, int, int],
    table: int,
    rows: int,
    a: int,
    mean: int,
    rstd: int,
    s0: int,
    s0_each: bool,
    s1: int,
    values: float,
    /,
) -> None: ...
def pointwise_forward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int],
    xs: Sequence[int],
    weight: int,
    z: int,
    mean: int,
    var: int,
    /,
) -> None: ...
def pointwise_backward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int],
    xs: Sequence[int],
    z: int,
    grad: int,
    p: int,
    q: int,
    r: int,
    weight: int,
    into: Sequence[int],
    dxs: Sequence[int],
    d_weight: int,
    /,
) -> None: ...
def reduces_forward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int, int, int, int],
    xs: Sequence[int],
    even: Sequence[int],
    odd: Sequence[int],
    zs: Sequence[int],
    mean: int,
    var: int,
    /,
) -> None: ...
def reduces_backward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int, int, int, int],
    xs: Sequence[int],
    even: Sequence[int],
    odd: Sequence[int],
    zs: Sequence[int],
    grads: Sequence[int],
    p: int,
    q: int,
    r: int,
    factors: int,
    dxs: Sequence[int],
    add: bool,
    d_even: Sequence[int],
    d_odd: Sequence[int],
    /,
) -> None: ...
def pools_forward(
    threads: int,
    dtype: int,
    image: tuple[int, int, int, int, int],
    x: int,
    largest: int,
    average: int,
    mean: int,
    var: int,
    /,
) -> None: ...
def pools_backward(
    threads: int,
    dtype: int,
    image: tuple[int, int, int, int, int],
    x: int,
    d_largest: int,
    d_average: int,
    into: int,
    dx: int,
    /,
) -> None: ...
def split_forward(
    threads: int, dtype: int, sizes: tuple[int, int, int, int, int], x: int, head: int, rest: int, /
) -> None: ...
def split_backward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int, int, int],
    stride: int,
    x: int,
    d_head: int,
    d_rests: Sequence[int],
    b: int,
    dx: int,
    /,
) -> None: ...
def merge_forward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int],
    passing: Sequence[int],
    widths: Sequence[int],
    mixed: int,
    b: int,
    node: int,
    head: int,
    /,
) -> None: ...
def merge_backward(
    threads: int,
    dtype: int,
    sizes: tuple[int, int, int],
    passing: Sequence[int],
    widths: Sequence[int],
    outside: int,
    d_head: int,
    d_rests: Sequence[int],
    b: int,
    d_mixed: int,
    d_rest: int,
    d_factors: int,
    /,
) -> None: ...
