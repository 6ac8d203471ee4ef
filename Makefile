.PHONY: study test lint docs bench measure schema fuzz floors

study: ; ./study
test: ; ./study test
lint: ; .venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/snakefmt --check workflow && .venv/bin/lint-imports && .venv/bin/mypy
docs: ; .venv/bin/mkdocs build
measure: ; .venv/bin/python benchmarks/shape.py
bench: ; .venv/bin/python benchmarks/run.py
schema: ; .venv/bin/fasb schema > config/schema.json
fuzz: ; .venv/bin/python tests/faults/fuzz.py 100000
floors: ; .ci/floors
