# Everything that a change must pass. CONTRIBUTING.md says more.

.PHONY: install check test results docs notebooks

install: ## This package, editable, with what its tests need.
	pip install -e ".[test]"

check: ## Style and types.
	ruff check .
	ruff format --check .
	pyright

test: ## The README's test command.
	pip install -e ".[test]" && python -m pytest

results: ## README tables and figures, from results/.
	python -m tools.results
	python -m tools.fields

docs: ## The site, from the stored outputs of its pages, into docs/_build/html.
	python -m sphinx --fail-on-warning --keep-going -q -j auto docs docs/_build/html

notebooks: ## Execute all pages of the site with code, and store their outputs.
	python -m tools.notebooks
