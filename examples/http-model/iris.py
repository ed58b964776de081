"""The model: which iris has these measures? Trained in a moment, on the data that comes with scikit-learn."""

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

_iris = load_iris()
_names = [str(name) for name in _iris.target_names]
_model = LogisticRegression(max_iter=1000).fit(_iris.data, _iris.target)


def classify(rows: list[list[float]]) -> list[dict[str, object]]:
    """For each row (length and width of sepal, length and width of petal, in cm) the likeliest iris.

    :raises ValueError: for rows that are none, as scikit-learn words it
    """
    chances = _model.predict_proba(rows)
    return [{"label": _names[row.argmax()], "probability": float(row.max())} for row in chances]
