"""What an evaluation of several labels an image looks like on a screen."""

from rich.cells import cell_len

from ssfnas.pipeline.evaluation_table import table


def evaluated(precisions, thresholds=None):
    count = len(precisions)
    last = {
        "mean_average_precision": 0.5, "auc": 0.75, "accuracy": 0.875,
        "per_class_average_precision": precisions, "per_class_auc": [0.25] * count,
        "per_class_f1": [0.0] * count,
    }  # fmt: skip
    choices = {}
    if thresholds is not None:
        choices["thresholds"] = {
            "chosen": {"probability": thresholds}, "on": "validation", "by": "F1 of each label",
            "among": "all thresholds", "value": 0.5, "test": {"macro_f1": 0.5},
            "per_class_f1": [1.0] * count,
        }  # fmt: skip
    return {"parameters": 1, "multiply_adds": 1, "last_epoch": last, "choices": choices}


def label_lines(text: str) -> list[str]:
    _, _, rest = text.partition("\nlabels")
    return rest.partition("\n\n")[0].splitlines()[1:]


def test_labels_stand_in_columns_whatever_their_names_are_written_in():
    head, *rows = label_lines(table(evaluated([0.5, None], [0.25, 0.5]), ["edema", "肺炎 <b>"]))
    assert head.split("  ")[-1] == "threshold"
    assert [row.split() for row in rows] == [
        ["edema", "50.00", "%", "25.00", "%", "0.00", "%", "100.00", "%", "0.250"],
        ["肺炎", "<b>", "-", "25.00", "%", "0.00", "%", "100.00", "%", "0.500"],
    ]
    assert len({cell_len(line) for line in (head, *rows)}) == 1
    assert cell_len(head) < 80


def test_of_very_many_labels_the_lowest_are_shown():
    precisions = [0.75, None, *(n / 1000 for n in range(998, 0, -1))]
    text = table(evaluated(precisions), [f"label {n}" for n in range(1000)])
    assert "labels (the 20 of 1,000 with the lowest average precision)" in text
    _, *rows = label_lines(text)
    assert [row.split()[1] for row in rows] == [str(n) for n in range(999, 979, -1)]


def test_measures_are_called_what_reports_call_them():
    text = table(evaluated([0.5]), ["edema"])
    assert "mAP                       50.00 %" in text
    assert "share of right decisions  87.50 %" in text
