import pytest
import torch

from ssfnas.data import ImageSet, ImageStream, IndexStream, iterate, make_views
from ssfnas.errors import RequestError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def image_set(n=53, size=(12, 11), classes=4, multi_label=False):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *size, 3), generator=generator).to(torch.uint8)
    if multi_label:
        return ImageSet(images, (torch.rand((n, classes), generator=generator) < 0.3).float())
    return ImageSet(images, torch.arange(n) % classes)


def stream(images, name="barlow_twins", batch_size=8, seed=3, **settings):
    views = make_views(name, image_size=images.image_size, mean=MEAN, std=STD, cutout=3)
    settings = {"device": "cpu", "num_classes": 4, "dtype": torch.float64, **settings}
    return ImageStream(
        images, torch.arange(0, len(images) - 3), batch_size, views, seed=seed, **settings
    )


def take(batches, count):
    return [batches.next() for _ in range(count)]


def assert_same(one, other, exact=True):
    tolerance = 0 if exact else 1e-12
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.indices, b.indices)
        torch.testing.assert_close(a.labels, b.labels, rtol=0, atol=tolerance)
        assert len(a.views) == len(b.views)
        for x, y in zip(a.views, b.views, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("name", ["crop_flip", "autoaugment", "trivialaugment", "barlow_twins"])
def test_batches_do_not_depend_on_the_chunk(name, mixup):
    images = image_set()
    batches = [
        take(stream(images, name, chunk=chunk, mixup=mixup), 9) for chunk in (1, 16, 40, 1000)
    ]
    for other in batches[1:]:
        assert_same(batches[0], other, exact=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("position", [1, 4, 5, 13])
def test_going_on_gives_the_same_bits(position, dtype):
    images = image_set()
    settings = {"chunk": 24, "mixup": 0.5, "sampling_exponent": 0.5, "dtype": dtype}
    whole = stream(images, **settings)
    first = take(whole, position)
    state = whole.state_dict()
    rest = take(whole, 10)
    resumed = stream(images, **settings)
    resumed.next()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert_same(take(resumed, 10), rest)
    resumed.load_state_dict({**state, "position": 0})
    assert_same(take(resumed, position), first)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("multi_label", [False, True])
def test_shares_of_processes_make_up_the_batch(mixup, multi_label):
    images = image_set(multi_label=multi_label)
    whole = take(stream(images, mixup=mixup, chunk=16), 5)
    shares = [
        take(stream(images, mixup=mixup, chunk=12, rank=rank, world_size=4), 5) for rank in range(4)
    ]
    for batch, own in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(batch.indices, torch.cat([share.indices for share in own]))
        labels = torch.cat([share.labels for share in own])
        torch.testing.assert_close(batch.labels, labels, rtol=0, atol=1e-12)
        for number, view in enumerate(batch.views):
            together = torch.cat([share.views[number] for share in own])
            torch.testing.assert_close(view, together, rtol=0, atol=1e-12)


def test_batches_are_the_views_of_the_images_they_name():
    images = image_set()
    batches = stream(images, "none", chunk=16)
    order = IndexStream(images.labels, torch.arange(50), 3).slice(0, 8 * 9)
    for number, batch in enumerate(take(batches, 9)):
        assert torch.equal(batch.indices, order[8 * number : 8 * (number + 1)])
        assert torch.equal(batch.labels, images.labels[batch.indices])
        (view,) = batch.views
        uncut = images.images[batch.indices].permute(0, 3, 1, 2).double() / 255
        uncut = (uncut - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        cut = view == 0
        assert cut.any()
        torch.testing.assert_close(view[~cut], uncut[~cut].double(), rtol=0, atol=1e-6)


def test_an_epoch_takes_every_image():
    batches = stream(image_set(), "none")
    assert batches.steps_per_epoch == 7
    taken = torch.cat([batch.indices for batch in take(batches, 25)])
    assert torch.equal(torch.bincount(taken, minlength=53), torch.tensor([4] * 50 + [0] * 3))


def test_the_same_image_has_other_views_each_time():
    images = image_set().subset([0])
    views = make_views("crop_flip", image_size=(12, 11), mean=MEAN, std=STD)
    batches = ImageStream(images, torch.tensor([0]), 4, views, seed=0, device="cpu")
    pictures = torch.cat([batch.views[0] for batch in take(batches, 5)]).flatten(1)
    assert len(torch.unique(pictures, dim=0)) > 12


def test_mixup_mixes_a_batch_with_itself():
    images = image_set()
    plain = take(stream(images, chunk=16), 6)
    mixed = take(stream(images, chunk=16, mixup=1.0), 6)
    shares = []
    for before, after in zip(plain, mixed, strict=True):
        assert torch.equal(before.indices, after.indices)
        hot = torch.nn.functional.one_hot(before.labels, 4).double()
        x, y = before.views[0].flatten(1), after.views[0].flatten(1)
        # y_i = l x_i + (1 - l) x_j: j is the image for which one l fits all pixels.
        best = []
        for i in range(8):
            direction = x - x[i]
            share = 1 - ((y[i] - x[i]) * direction).sum(1) / direction.square().sum(1)
            residue = (share[:, None] * x[i] + (1 - share[:, None]) * x - y[i]).abs().amax(1)
            partner = int(residue.nan_to_num(1.0).argmin())
            if (y[i] - x[i]).abs().max() < 1e-9:
                partner = i  # mixed with itself: any other would fit with l = 1
            else:
                assert residue[partner] < 1e-9
            best.append((partner, float(share[partner])))
        share = next(value for i, (j, value) in enumerate(best) if i != j)
        partners = [j for j, _ in best]
        assert sorted(partners) == list(range(8))
        assert all(abs(value - share) < 1e-9 for i, (j, value) in enumerate(best) if i != j)
        expected = share * hot + (1 - share) * hot[partners]
        torch.testing.assert_close(after.labels, expected, rtol=0, atol=1e-9)
        shares.append(share)
    assert len({round(share, 6) for share in shares}) == 6


def test_mixup_of_several_labels_mixes_the_columns():
    batch = stream(image_set(multi_label=True), mixup=1.0).next()
    assert batch.labels.shape == (8, 4)
    assert batch.labels.min() >= 0
    assert batch.labels.max() <= 1
    assert ((batch.labels > 0) & (batch.labels < 1)).any()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("chunk", [1, 64])
def test_after_its_epochs_mixup_mixes_nothing_and_labels_keep_their_form(chunk, world_size):
    images = image_set()
    for rank in range(world_size):
        place = {"rank": rank, "world_size": world_size, "chunk": chunk}
        mixed, plain = stream(images, mixup=0.8, **place), stream(images, **place)
        ending = stream(images, mixup=0.8, mixup_epochs=1, **place)
        per_epoch = ending.steps_per_epoch
        assert_same(take(ending, per_epoch), take(mixed, per_epoch))
        take(plain, per_epoch)
        state = ending.state_dict()
        rest = take(ending, 5)
        for batch, expected in zip(rest, take(plain, 5), strict=True):
            assert torch.equal(batch.labels, torch.eye(4, dtype=torch.float64)[expected.labels])
            assert all(map(torch.equal, batch.views, expected.views))
        again = stream(images, mixup=0.8, mixup_epochs=1, **place)
        again.load_state_dict(state)
        assert_same(take(again, 5), rest)


def test_balanced_sampling_reaches_the_batches():
    images = image_set(200)
    rare = ImageSet(images.images, (torch.arange(200) >= 190).long())
    views = make_views("none", image_size=(12, 11), mean=MEAN, std=STD)
    batches = ImageStream(
        rare, torch.arange(200), 100, views, seed=0, device="cpu", sampling_exponent=0.0
    )
    share = torch.cat([batch.labels for batch in take(batches, 20)]).double().mean()
    assert abs(float(share) - 0.5) < 0.06


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    take(stream(image_set(), mixup=0.4), 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_differ():
    images = image_set()
    one, other = (stream(images, "none", seed=seed).next() for seed in (0, 1))
    assert not torch.equal(one.indices, other.indices)


@pytest.mark.parametrize(
    ("key", "value", "words"), [("seed", 9, "seed 9"), ("batch_size", 16, "batch size 16")]
)
def test_a_state_of_another_stream_is_refused(key, value, words):
    batches = stream(image_set())
    with pytest.raises(RequestError, match=words):
        batches.load_state_dict({**batches.state_dict(), key: value})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 9, "world_size": 2}, "multiple"),
        ({"batch_size": 0}, "batch size 0"),
        ({"mixup": -1.0}, "mixup"),
        ({"sampling_exponent": 2.0}, "from 0 to 1"),
    ],
)
def test_streams_refuse(settings, words):
    with pytest.raises(RequestError, match=words):
        stream(image_set(), **settings)


def test_iterating_gives_every_image_once_in_order():
    images = image_set(21)
    pieces = list(iterate(images, 8, mean=MEAN, std=STD, device="cpu", dtype=torch.float64))
    assert [len(x) for x, _ in pieces] == [8, 8, 5]
    assert torch.equal(torch.cat([y for _, y in pieces]), images.labels)
    pixels = torch.cat([x for x, _ in pieces])
    for channel in range(3):
        restored = (pixels[:, channel] * STD[channel] + MEAN[channel]) * 255
        torch.testing.assert_close(restored, images.images[..., channel].double())
