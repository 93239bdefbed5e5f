"""Results as plain frozen values; `.records()` gives each as dicts that JSON can hold."""

from steer_cli.results.agreement import Agreement
from steer_cli.results.baked import Baked
from steer_cli.results.came_to import CameTo, came_to, over_texts
from steer_cli.results.card import Answers, Card, CurvePoint, Fluency, Neutral, ScoredArm, Source
from steer_cli.results.comparison import Comparison, Completion, Receipt, Sum, arm_names
from steer_cli.results.cost import CHEAP, COSTLY, STUMBLES, WORD_SALAD, Cost, reads_like, steering_cost
from steer_cli.results.estimate import Estimate
from steer_cli.results.exported import Exported
from steer_cli.results.means import ArmMeans, compare_arms, standard_error
from steer_cli.results.model_check import ModelCheck
from steer_cli.results.norms import Norms
from steer_cli.results.partial import Partial, Watch
from steer_cli.results.perplexity import CorpusFindings, Perplexity, SentenceChange, figure_name
from steer_cli.results.scan import Scan, ScanPoint
from steer_cli.results.shift import PromptShift, Shift, TokenShift
from steer_cli.results.sweep import AXES, Coordinates, SweepPoint, axis_name, axis_number, axis_values
from steer_cli.results.tuning import OVERFLOWN, Figures, Place, Position, Searched, Trial, Tuning
from steer_cli.results.verdict import Verdict

__all__ = [
    "AXES",
    "CHEAP",
    "COSTLY",
    "OVERFLOWN",
    "STUMBLES",
    "WORD_SALAD",
    "Agreement",
    "Answers",
    "ArmMeans",
    "Baked",
    "CameTo",
    "Card",
    "Comparison",
    "Completion",
    "Coordinates",
    "CorpusFindings",
    "Cost",
    "CurvePoint",
    "Estimate",
    "Exported",
    "Figures",
    "Fluency",
    "ModelCheck",
    "Neutral",
    "Norms",
    "Partial",
    "Perplexity",
    "Place",
    "Position",
    "PromptShift",
    "Receipt",
    "Scan",
    "ScanPoint",
    "ScoredArm",
    "Searched",
    "SentenceChange",
    "Shift",
    "Source",
    "Sum",
    "SweepPoint",
    "TokenShift",
    "Trial",
    "Tuning",
    "Verdict",
    "Watch",
    "arm_names",
    "axis_name",
    "axis_number",
    "axis_values",
    "came_to",
    "compare_arms",
    "figure_name",
    "over_texts",
    "reads_like",
    "standard_error",
    "steering_cost",
]
