"""An agent analyses data by code that it wrote: the data is bound, the code gives the answer.

Prints:

    revenue: 914.25
    products: {'Widget': 18, 'Gadget': 5, 'Gizmo': 15}
    best: Widget
    the code fails: TypeError: undefined is not an object (evaluating 'row.price.amount.currency'), line 1
"""

from __future__ import annotations

from typing import Any

from ipcctl.js import JavaScriptError, Runtime

SALES = [
    {"product": "Widget", "quantity": 10, "price": 25.50},
    {"product": "Gadget", "quantity": 5, "price": 45.00},
    {"product": "Widget", "quantity": 8, "price": 25.50},
    {"product": "Gizmo", "quantity": 15, "price": 15.35},
]
#: What the model wrote. A block of code with `return`, as models like to write it.
ANALYSIS = """
const sold = new Map();
for (const row of sales.rows) sold.set(row.product, (sold.get(row.product) ?? 0) + row.quantity);
return {
    revenue: sales.rows.reduce((sum, row) => sum + row.quantity * row.price, 0),
    sold,
    best: [...sold].sort((one, other) => other[1] - one[1])[0][0],
};
"""


def analyse(code: str, rows: list[dict[str, Any]]) -> Any:
    with Runtime(max_memory=128 << 20, timeout=5) as runtime:
        runtime.bind_object("sales", {"rows": rows})
        return runtime.eval(f"(() => {{{code}}})()")


found = analyse(ANALYSIS, SALES)
print(f"revenue: {found['revenue']:.2f}")
print(f"products: {found['sold']}")
print(f"best: {found['best']}")
try:
    analyse("return sales.rows.map((row) => row.price.amount.currency)", SALES)
except JavaScriptError as error:
    print(f"the code fails: {error.name}: {error.message}, line {error.frames[0].get('line_number')}")
