# make demo   fit the astronaut photo and say where the pictures are
# make test   linters, types, tests and the notebook
# Both create .venv first. PYTHON=... chooses the interpreter, VENV=... the folder.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
# The detector's wheels cover Python up to 3.12. A name on the PATH may be a shim without an interpreter behind it, so each is run.
CANDIDATES := $(PYTHON) python3.12 python3.11 python3
SUPPORTED := import sys, venv, ensurepip; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test picture clean

demo: $(VENV)/demo.stamp
	$(BIN)/fitjax demo --out demo_output

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbmake notebooks tests

# The picture at the top of the README.
picture: demo
	$(BIN)/python -c "from PIL import Image; Image.open('demo_output/astronaut/overlay.png').convert('RGB').save('docs/images/astronaut_overlay.jpg', quality=86, optimize=True)"

$(BIN)/python:
	@for python in $(CANDIDATES); do \
	  if $$python -c "$(SUPPORTED)" 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv "$(VENV)" || rm -rf "$(VENV)"; \
	    break; \
	  fi; \
	done; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "fitjax: found no Python 3.11 or 3.12 that can create a virtual environment (tried: $(strip $(CANDIDATES)));" >&2; \
	  echo "the face detector has wheels for these two. On Debian or Ubuntu: apt-get install python3-venv; or make PYTHON=/path/to/python3.12 ..." >&2; \
	  exit 1; \
	fi

# Re-installed only when pyproject.toml changed: the package itself is editable.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@$(call install,detect$(,)demo)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	@$(call install,detect$(,)demo$(,)dev)
	@touch $(VENV)/demo.stamp $@

, := ,

# The detector's OpenCV wants libGL.so.1, which slim systems lack; the headless build of the same version does without.
define install
echo "installing fitjax[$(1)] into $(VENV) (a few minutes on the first run)"; \
$(BIN)/python -m pip install -qq --editable ".[$(1)]" && \
{ $(BIN)/python -c "import cv2" 2>/dev/null || { \
  echo "OpenCV cannot load its display libraries here; installing the headless build in its place"; \
  $(BIN)/python -m pip uninstall -qq --yes opencv-contrib-python && \
  $(BIN)/python -m pip install -qq --force-reinstall --no-deps opencv-contrib-python-headless && \
  $(BIN)/python -c "import cv2"; }; }
endef

clean:
	rm -rf $(VENV) demo_output .pytest_cache .mypy_cache .ruff_cache
