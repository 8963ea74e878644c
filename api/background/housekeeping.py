"""Deletes expired rows: stored answers of idempotency keys, and refresh tokens."""

import asyncio
import logging
from datetime import timedelta

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import outages
from domain.data.accounts import IdempotencyKey, RefreshToken

logger = logging.getLogger(__name__)

INTERVAL = 3600.0  # seconds
IDEMPOTENCY_KEY_LIFETIME = timedelta(hours=48)  # twice what the API promises


async def run(engine: AsyncEngine) -> None:
    """Delete expired rows now and every hour."""
    while True:
        try:
            await delete_expired(engine)
        except Exception as error:  # noqa: BLE001 - the next hour tries again
            logger.warning("housekeeping failed: %s", outages.describe(error))
        await asyncio.sleep(INTERVAL)


async def delete_expired(engine: AsyncEngine) -> None:
    """Delete old idempotency keys, and refresh tokens that have expired."""
    async with engine.begin() as tx:
        is_old = IdempotencyKey.created_at < func.now() - IDEMPOTENCY_KEY_LIFETIME
        await tx.execute(delete(IdempotencyKey).where(is_old))
        await tx.execute(delete(RefreshToken).where(RefreshToken.expires_at < func.now()))
