"""Forgets what has served its time: answers kept for idempotency keys, and refresh tokens."""

import asyncio
import logging
from datetime import timedelta

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import IdempotencyKey, RefreshToken

logger = logging.getLogger(__name__)

INTERVAL = 3600.0  # seconds
KEPT = timedelta(hours=48)  # twice what clients are promised


async def run(engine: AsyncEngine) -> None:
    """Tidy up now and every hour."""
    while True:
        try:
            await tidy(engine)
        except Exception as error:  # noqa: BLE001 - the next hour tries again
            logger.warning("housekeeping failed: %s", error)
        await asyncio.sleep(INTERVAL)


async def tidy(engine: AsyncEngine) -> None:
    """Delete idempotency keys of two days ago and refresh tokens that have expired."""
    async with engine.begin() as tx:
        await tx.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))
        await tx.execute(delete(RefreshToken).where(RefreshToken.expires_at < func.now()))
