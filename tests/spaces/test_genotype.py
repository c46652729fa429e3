"""Genotypes: both files, what is refused, and which nodes take part."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.spaces import PUBLISHED, Genotype

SMALL = Genotype(
    normal=(("sep_conv_3x3", 0, 2), ("skip_connect", 2, 4), ("dil_conv_5x5", 1, 4)),
    normal_concat=(2, 3, 4),
    reduce=(("max_pool_3x3", 0, 2), ("max_pool_3x3", 1, 2)),
    reduce_concat=(2,),
)


@st.composite
def cells(draw, two_each=False):
    nodes = draw(st.integers(1, 5))
    edges = []
    for to in range(2, nodes + 2):
        count = 2 if two_each else draw(st.integers(0, 4))
        for _ in range(count):
            name = draw(st.sampled_from([*FAIRDARTS_OPERATIONS, "my 'own' \"op\\"]))
            edges.append((name, draw(st.integers(0, to - 1)), to))
    concat = draw(st.lists(st.integers(2, nodes + 1), unique=True))
    return tuple(edges), tuple(concat)


@st.composite
def genotypes(draw, two_each=False):
    normal, reduce = draw(cells(two_each)), draw(cells(two_each))
    return Genotype(normal[0], normal[1], reduce[0], reduce[1])


@given(genotypes())
@settings(deadline=None)
def test_json_and_fairdarts_text_give_back_what_was_written(genotype):
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.from_text(genotype.to_text("fairdarts")) == genotype
    assert Genotype.from_text(genotype.to_text()) == genotype


@given(genotypes(two_each=True))
@settings(deadline=None)
def test_darts_text_gives_back_two_edges_a_node(genotype):
    text = genotype.to_text("darts")
    assert Genotype.from_text(text) == genotype
    assert genotype.to_text() == text


def test_json_is_the_documented_one():
    assert json.loads(SMALL.to_json()) == {
        "format": 1,
        "space": "darts",
        "normal": [["sep_conv_3x3", 0, 2], ["skip_connect", 2, 4], ["dil_conv_5x5", 1, 4]],
        "normal_concat": [2, 3, 4],
        "reduce": [["max_pool_3x3", 0, 2], ["max_pool_3x3", 1, 2]],
        "reduce_concat": [2],
    }
    assert SMALL.to_json().endswith("}\n")


def test_texts_are_those_of_darts_and_fairdarts():
    assert SMALL.to_text("fairdarts") == (
        "Genotype(normal=[('sep_conv_3x3', 2, 0), ('skip_connect', 4, 2), ('dil_conv_5x5', 4, 1)], "
        "normal_concat=range(2, 5), "
        "reduce=[('max_pool_3x3', 2, 0), ('max_pool_3x3', 2, 1)], reduce_concat=range(2, 3))"
    )
    assert SMALL.to_text() == SMALL.to_text("fairdarts")
    two = Genotype(SMALL.reduce, (2,), SMALL.reduce, (2,))
    assert two.to_text() == (
        "Genotype(normal=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], normal_concat=range(2, 3), "
        "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=range(2, 3))"
    )
    with pytest.raises(RequestError, match="node 2 of the normal cell has not two edges"):
        SMALL.to_text("darts")
    with pytest.raises(RequestError, match="it is darts or fairdarts"):
        SMALL.to_text("nasnet")


@pytest.mark.parametrize(
    "text",
    [
        "Genotype(normal=[('skip_connect', 0), ('max_pool_3x3', 1)], normal_concat=range(2, 6), "
        "reduce=[('skip_connect', 0), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])",
        "# 3.3 M\nMINE = Genotype(\n  normal = [('skip_connect', 0), ('max_pool_3x3', 1)],\n"
        "  normal_concat=list(range(2, 6)),  # all of them\n"
        "  reduce=(('skip_connect', 2, 0), ('max_pool_3x3', 2, 1)),\n"
        "  reduce_concat=range(2, 6, 1))\n",
        "03/01 12:00:00 AM genotype = Genotype([('skip_connect', 0), ('max_pool_3x3', 1)], "
        "range(2, 6), [('skip_connect', 0), ('max_pool_3x3', 1)], range(2, 6))",
    ],
)
def test_texts_that_people_have(text):
    edges = (("skip_connect", 0, 2), ("max_pool_3x3", 1, 2))
    assert Genotype.from_text(text) == Genotype(edges, (2, 3, 4, 5), edges, (2, 3, 4, 5))


def changed(**changes):
    return json.dumps({**json.loads(SMALL.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "one object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"format": ' + "1" * 5000 + "}", "not JSON"),
        ('{"format": 1, "format": 1}', "a field twice"),
        (changed(format=2), "format is 2: this version reads format 1"),
        (changed(format=True), "format is True"),
        (changed(space="nasbench"), "space 'nasbench': only cells of 'darts'"),
        (changed(space=None), "space None"),
        (changed(extra=1), "'extra' is unknown"),
        (changed(normal=None), "normal is None: it has to be a list"),
        (changed(normal={"a": 1}), "has to be a list"),
        (changed(normal=[["skip_connect", 0]]), r"has to be \[operation, from, to\]"),
        (changed(normal=["skip"]), r"has to be \[operation, from, to\]"),
        (changed(normal=[[3, 0, 2]]), "has to be a name"),
        (changed(normal=[["two\nlines", 0, 2]]), "has to be a name"),
        (changed(normal=[["", 0, 2]]), "has to be a name"),
        (changed(normal=[["skip_connect", 0.0, 2]]), "whole numbers"),
        (changed(normal=[["skip_connect", False, 2]]), "whole numbers"),
        (changed(normal=[["skip_connect", 2, 2]]), "to a later node"),
        (changed(normal=[["skip_connect", 2, 0]]), r"entries are \[operation, from, to\]"),
        (changed(normal=[["skip_connect", 0, 1]]), "to a later node"),
        (changed(normal=[["skip_connect", -1, 2]]), "to a later node"),
        (changed(normal=[["skip_connect", 0, 10**9]]), "to a later node"),
        (changed(normal_concat=[0]), "it names nodes, from 2"),
        (changed(normal_concat=[2, 2]), "node 2 twice"),
        (changed(normal_concat=["2"]), "it names nodes"),
        (changed(normal_concat=2), "has to be a list"),
        (changed(normal_concat=[10**9]), "it names nodes"),
    ],
)
def test_wrong_json(text, message):
    with pytest.raises(RequestError, match=message) as error:
        Genotype.from_json(text)
    assert "\n" not in str(error.value)


def test_missing_field():
    fields = json.loads(SMALL.to_json())
    del fields["reduce_concat"]
    with pytest.raises(RequestError, match="reduce_concat missing"):
        Genotype.from_json(json.dumps(fields))


PLAIN = "[('skip_connect', 0), ('skip_connect', 1)]"


def text_with(normal=PLAIN, concat="range(2, 3)", rest=f"reduce={PLAIN}, reduce_concat=[2]"):
    return f"Genotype(normal={normal}, normal_concat={concat}, {rest})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no Genotype"),
        ("NotGenotype(normal=[])", "no Genotype"),
        (text_with() + "\n" + text_with(), "several genotypes"),
        (text_with() + ".normal", "stand alone"),
        (text_with()[:-1], "not a Python text"),
        ("Genotype(\0)", "not a Python text"),
        ("Genotype(normal=" + "[" * 50_000, "not a Python text"),
        ("Genotype(normal=" + "-" * 50_000 + "1)", "not a Python text"),
        (text_with(concat="0" + "+1" * 50_000), "not a Python text|list of names"),
        ("Genotype(normal=[])", "has to have normal, normal_concat, reduce, reduce_concat"),
        (text_with(rest=f"reduce={PLAIN}, reduce_concat=[2], more=[]"), "has to have"),
        (text_with(rest=f"reduce={PLAIN}, **dict(reduce_concat=[2])"), "has to have"),
        (f"Genotype({PLAIN}, [2], {PLAIN}, [2], normal=[])", "has to have"),
        (f"Genotype({PLAIN}, [2], {PLAIN}, [2], [])", "has to have"),
        (text_with(normal="__import__('os').system('true')"), "nothing else is read"),
        (text_with(normal="[open('x')]"), "nothing else is read"),
        (text_with(normal="None"), "has to be a list"),
        (text_with(concat="range(2, 10**9)"), "nothing else is read"),
        (text_with(concat="range(1000000000000000000000)"), "too long"),
        (text_with(concat="range(2, 6, 0)"), "must not be zero"),
        (text_with(concat="range(2.5)"), "nothing else is read"),
        (text_with(concat="range(x)"), "not a Python text|nothing else is read"),
        (text_with(concat="range()"), "nothing else is read"),
        (text_with(normal="[('skip_connect', 0)]"), "two for each node"),
        (text_with(normal="[('skip_connect', 0), ('skip_connect', 3, 1)]"), "all"),
        (text_with(normal="[3, 4]"), "all"),
        (text_with(normal="[('skip_connect', 0, 2)]"), r"\(operation, to, from\)"),
        (text_with(normal="[('skip_connect', 5), ('skip_connect', 1)]"), "to a later node"),
        (text_with(normal="[(['a'], 0), ('skip_connect', 1)]"), "has to be a name"),
        (text_with(normal="{1: {}}"), "has to be a list"),
        (text_with(normal="{[]: 1}"), "nothing else is read"),
    ],
)
def test_wrong_text(text, message):
    with pytest.raises(RequestError, match=message) as error:
        Genotype.from_text(text)
    assert "\n" not in str(error.value)


def either(read, text):
    """A genotype, or one line that says what is wrong; nothing else may come of any text."""
    message = ""
    try:
        assert isinstance(read(text), Genotype)
    except RequestError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text())
@settings(deadline=None)
def test_any_text_is_a_genotype_or_a_request_error(text):
    either(Genotype.from_json, text)
    either(Genotype.from_text, text)
    either(Genotype.from_text, f"Genotype(normal={text})")
    either(Genotype.from_text, text_with(normal=text))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=3),
    st.sampled_from(DARTS_OPERATIONS),
)  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(
    st.sampled_from(["format", "space", "normal", "normal_concat", "reduce", "reduce_concat"]),
    values,
)
@settings(deadline=None)
def test_any_value_of_a_field(field, value):
    either(Genotype.from_json, changed(**{field: value}))
    either(Genotype.from_text, text_with(normal=repr(value)))
    either(Genotype.from_text, text_with(concat=repr(value)))


@given(st.sampled_from([SMALL.to_json(), SMALL.to_text(), PUBLISHED["DARTS_V2"].to_text()]),
       st.integers(0, 700), st.integers(0, 9), st.text(max_size=4))  # fmt: skip
@settings(deadline=None)
def test_damaged_files(text, at, cut, inserted):
    damaged = text[:at] + inserted + text[at + cut :]
    either(Genotype.from_json, damaged)
    either(Genotype.from_text, damaged)


def test_lists_become_tuples_and_nothing_changes_afterward():
    genotype = Genotype([["skip_connect", 0, 2]], [2], [["skip_connect", 1, 2]], range(2, 3))
    assert genotype.normal == (("skip_connect", 0, 2),)
    assert genotype.reduce_concat == (2,)
    assert hash(genotype) == hash(copy.deepcopy(genotype))
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.normal = ()


def test_pruning_leaves_out_what_the_inputs_do_not_reach():
    genotype = Genotype(
        # Node 2 has nothing, so 3 has nothing, so of 5 one edge is left.
        normal=(
            ("sep_conv_3x3", 2, 3),
            ("skip_connect", 0, 4),
            ("skip_connect", 3, 5),
            ("max_pool_3x3", 4, 5),
            ("none", 0, 6),
        ),
        normal_concat=(2, 3, 4, 5, 6),
        reduce=(("skip_connect", 0, 3), ("skip_connect", 1, 2)),
        reduce_concat=(3,),
    )
    assert genotype.pruned() == Genotype(
        normal=(("skip_connect", 0, 4), ("max_pool_3x3", 4, 5)),
        normal_concat=(4, 5),
        reduce=(("skip_connect", 0, 3), ("skip_connect", 1, 2)),
        reduce_concat=(3,),
    )
    assert genotype.nodes == 5
    assert genotype.pruned().pruned() == genotype.pruned()


@given(genotypes())
@settings(deadline=None)
def test_pruning_is_reachability(genotype):
    try:
        pruned = genotype.pruned()
    except RequestError:
        pruned = None
    for cell in ("normal", "reduce"):
        reached = {0, 1}
        for _ in range(10):
            reached |= {to for _, start, to in genotype.edges(cell) if start in reached}
        if pruned is None:
            if not reached & set(genotype.concat(cell)):
                return
            continue
        assert pruned.concat(cell) == tuple(n for n in genotype.concat(cell) if n in reached)
        assert pruned.edges(cell) == tuple(e for e in genotype.edges(cell) if e[1] in reached)
    assert pruned is not None


@pytest.mark.parametrize("normal", [(), (("skip_connect", 2, 3),), (("none", 0, 2),)])
def test_an_empty_cell_is_an_error_when_it_is_used(normal):
    genotype = Genotype(normal, (2, 3), SMALL.reduce, (2,))
    assert Genotype.from_json(genotype.to_json()) == genotype
    for use in (genotype.pruned, genotype.check):
        with pytest.raises(RequestError, match="the normal cell is empty"):
            use()


def test_check_names_the_edge_of_an_unknown_operation():
    genotype = Genotype((("sep_conv_3x", 0, 2),), (2,), SMALL.reduce, (2,))
    with pytest.raises(RequestError, match=r"normal cell, edge 0 -> 2: unknown.*did you mean"):
        genotype.check()
    SMALL.check()
    with pytest.raises(RequestError, match="'skip_connect' is not one of sep_conv_3x3"):
        SMALL.check(("sep_conv_3x3", "max_pool_3x3", "dil_conv_5x5"))
    with pytest.raises(RequestError, match="no cell is called 'stem'"):
        SMALL.edges("stem")


@pytest.mark.parametrize("name", ["g.json", "g.txt", "g.py"])
def test_files(tmp_path, name):
    path = tmp_path / name
    before = os.umask(0o022)
    try:
        SMALL.save(path)
    finally:
        os.umask(before)
    assert Genotype.load(path) == Genotype.load(str(path)) == SMALL
    assert path.read_text().startswith("{" if name == "g.json" else "Genotype(")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == [name]


def test_run_directory(tmp_path):
    with pytest.raises(RequestError, match=r"holds no genotype.json"):
        Genotype.load(tmp_path)
    SMALL.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path) == SMALL


def test_published_names():
    assert Genotype.load("DARTS_V2") is PUBLISHED["DARTS_V2"]
    with pytest.raises(RequestError, match=r"no genotype 'DARTS_V3'.*DARTS_V2, FairDARTS_a"):
        Genotype.load("DARTS_V3")


def test_files_that_are_none(tmp_path):
    path = tmp_path / "g.json"
    for data, message in (
        (b"\xff\xfe", "not a text in UTF-8"),
        (b" " * (2**20 + 1), "larger than"),
        (b'{"format": 3}', "g.json: genotype: format is 3"),
        (b"hello", "g.json: genotype: not JSON"),
        (b"", "g.json: genotype: not JSON"),
        (b"a = Genotype", "g.json: genotype: the text holds no Genotype"),
    ):
        path.write_bytes(data)
        with pytest.raises(RequestError, match=message):
            Genotype.load(path)
    with pytest.raises(RequestError):
        Genotype.load("no\0name")


def test_saving_fails_in_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "g.json"
    SMALL.save(path)
    before = path.read_bytes()
    with pytest.raises(RequestError, match=r"cannot write .*: No such file or directory"):
        SMALL.save(tmp_path / "missing" / "g.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device: make room"):
        PUBLISHED["DARTS_V1"].save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["g.json"]
