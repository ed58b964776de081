"""scikit-learn: cross-validation with threads, and a model that is kept."""

import os
import sys

import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

inputs, targets = load_iris(return_X_y=True)
forest = RandomForestClassifier(20, random_state=0, n_jobs=2)
print(cross_val_score(forest, inputs, targets).mean() > 0.9)
path = os.path.join(sys.argv[1], "forest.joblib")
joblib.dump(forest.fit(inputs, targets), path)
print(joblib.load(path).predict(inputs[:1]))
