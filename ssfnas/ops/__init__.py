"""The hot path as functions: a reference each, and the fastest form that fits."""

from ssfnas.ops.barlow_twins_loss import barlow_twins_loss, barlow_twins_loss_reference

__all__ = ["barlow_twins_loss", "barlow_twins_loss_reference"]
