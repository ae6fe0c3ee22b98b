//! The indexes of segments, as readings ask them.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use crate::filter::Filter;
use crate::log::page::Page;
use crate::log::reader::PAGE;
use crate::log::rows::{read_page, to_i64, to_u64};
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
    if indexes.first > offset + 1 {
        // Between them is a range that was never kept, or else an index was lost.
        let sql = "SELECT last FROM pages WHERE first < ?1 ORDER BY first DESC LIMIT 1";
        let mut statement = transaction.prepare_cached(sql)?;
        let before =
            statement.query_row([to_i64(indexes.first)], |row| to_u64(row, 0)).optional()?;
        if before.is_some_and(|last| last > offset) {
            return Err(StoreError::Damaged(offset + 1));
        }
    }
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
        let Self { first, last, types, sources, checksum } = self;
        let damaged = |_| StoreError::Damaged(first);
        if segment::checksum((first, last), &types, &sources) != checksum {
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

/// The page that an index names; `None` if it ends before a place, or is freed.
pub(super) fn indexed_page(
    transaction: &Transaction<'_>,
    first: u64,
    place: u64,
) -> Result<Option<Page>, StoreError> {
    let sql = format!("{PAGE} WHERE first = ?1 AND last > ?2");
    let mut statement = transaction.prepare_cached(&sql)?;
    let values = [to_i64(first), to_i64(place)];
    let page = statement.query_row(values, read_page).optional()?;
    if page.is_none() && first > place {
        // The oldest are freed, and nothing behind them.
        let sql = "SELECT EXISTS (SELECT 1 FROM pages WHERE first < ?1)";
        if transaction.prepare_cached(sql)?.query_row([to_i64(first)], |row| row.get(0))? {
            return Err(StoreError::Damaged(first));
        }
    }
    Ok(page)
}
