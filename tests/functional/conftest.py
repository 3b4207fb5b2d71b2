"""Fixtures of the tests on real machines."""

from tests.machines import environment, images_dir, state_dir, system, template_state

__all__ = ["environment", "images_dir", "state_dir", "system", "template_state"]
