//! The indexes of segments, as readings ask them.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use crate::filter::Filter;
use crate::log::rows::{to_i64, to_u64};
use crate::log::segment::{self, Index};
use crate::log::store::StoreError;

/// A segment's index, as far as a filter is concerned.
pub(super) struct Found {
    /// The offset of its last event.
    pub(super) last: u64,
    /// The first offsets of the pages that may hold what is wanted.
    pub(super) pages: Vec<u64>,
}

/// The segment that has the first events behind an offset.
pub(super) fn segment_behind(
    transaction: &Transaction<'_>,
    offset: u64,
    filter: &Filter,
) -> Result<Option<Found>, StoreError> {
    let sql = "SELECT first, last, types, sources, checksum FROM segments WHERE last > ?1 AND \
        first >= (SELECT ifnull(max(first), 0) FROM segments WHERE first <= ?1 + 1) \
        ORDER BY first LIMIT 1";
    let found =
        transaction.prepare_cached(sql)?.query_row([to_i64(offset)], read_indexes).optional()?;
    let Some(indexes) = found else { return Ok(None) };
    Ok(Some(Found { last: indexes.last, pages: indexes.wanted_pages(filter)? }))
}

/// The pages of the segment that has an offset, and where it begins.
pub(super) fn segment_around(
    transaction: &Transaction<'_>,
    offset: u64,
    filter: &Filter,
) -> Result<Option<(u64, Vec<u64>)>, StoreError> {
    let sql = "SELECT first, last, types, sources, checksum FROM segments WHERE first <= ?1 \
        ORDER BY first DESC LIMIT 1";
    let found =
        transaction.prepare_cached(sql)?.query_row([to_i64(offset)], read_indexes).optional()?;
    match found {
        Some(indexes) if indexes.last >= offset => {
            Ok(Some((indexes.first, indexes.wanted_pages(filter)?)))
        }
        _ => Ok(None),
    }
}

/// The indexes of one segment, as they are kept.
struct Indexes {
    first: u64,
    last: u64,
    types: Vec<u8>,
    sources: Vec<u8>,
    checksum: u32,
}

fn read_indexes(row: &Row<'_>) -> Result<Indexes, rusqlite::Error> {
    let (first, last) = (to_u64(row, 0)?, to_u64(row, 1)?);
    Ok(Indexes { first, last, types: row.get(2)?, sources: row.get(3)?, checksum: row.get(4)? })
}

impl Indexes {
    /// The pages that may hold what is wanted, by their first offsets.
    fn wanted_pages(self, filter: &Filter) -> Result<Vec<u64>, StoreError> {
        let Self { first, types, sources, checksum, .. } = self;
        let damaged = |_| StoreError::Damaged(first);
        if segment::checksum(&types, &sources) != checksum {
            return Err(StoreError::Damaged(first));
        }
        let types = Index::decode(Bytes::from(types), first).map_err(damaged)?;
        let mut pages = types.find(|it| filter.may_want_type(it));
        if !filter.narrow.sources.is_empty() {
            let sources = Index::decode(Bytes::from(sources), first).map_err(damaged)?;
            let by_source = sources.find(|it| filter.may_want_source(it));
            pages.retain(|page| by_source.binary_search(page).is_ok());
        }
        Ok(pages)
    }
}
