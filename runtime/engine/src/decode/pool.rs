//! Pages of a KV cache: who owns which.
//!
//! A page holds [`KvPage::TOKENS`] tokens. Sequences that were forked share their full pages; the page that a sequence writes next
//! is its own: a shared one is copied first.

use lathe_artifact::layout::KvPage;

/// Tokens of a page.
const PAGE_TOKENS: usize = KvPage::TOKENS;

/// Pages by number, with how many sequences hold each.
#[derive(Debug)]
pub(crate) struct Pool {
    holders: Vec<u32>,
    free: Vec<u32>,
    /// Most pages that were held at once.
    peak: usize,
}

impl Pool {
    pub(crate) fn new(pages: usize) -> Self {
        // Low numbers first: memory of pages that are never used is never touched.
        let free = (0..pages as u32).rev().collect();
        Self { holders: vec![0; pages], free, peak: 0 }
    }

    pub(crate) fn pages(&self) -> usize {
        self.holders.len()
    }

    /// Most pages that were held at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        self.peak = self.peak.max(self.holders.len() - self.free.len());
        Some(page)
    }

    fn share(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }

    fn is_shared(&self, page: u32) -> bool {
        self.holders[page as usize] > 1
    }
}

/// The pages of one sequence, in the order of its tokens; `None` where a sliding window has left a page behind.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: Vec<Option<u32>>,
}

impl Pages {
    /// Makes the pages of tokens `length..new_length` the sequence's own. `copy(from, to)` copies a page's contents. `false`
    /// where the pool has no more; what was taken stays until [`Self::truncate`].
    pub(crate) fn grow(
        &mut self,
        pool: &mut Pool,
        length: usize,
        new_length: usize,
        copy: &mut dyn FnMut(u32, u32),
    ) -> bool {
        let last = length / PAGE_TOKENS;
        if let Some(&Some(page)) = self.pages.get(last)
            && pool.is_shared(page)
        {
            let Some(own) = pool.take() else { return false };
            copy(page, own);
            pool.release(page);
            self.pages[last] = Some(own);
        }
        while self.pages.len() < new_length.div_ceil(PAGE_TOKENS) {
            let Some(page) = pool.take() else { return false };
            self.pages.push(Some(page));
        }
        true
    }

    /// Gives back the pages behind the first `length` tokens.
    pub(crate) fn truncate(&mut self, pool: &mut Pool, length: usize) {
        let keep = length.div_ceil(PAGE_TOKENS).min(self.pages.len());
        self.pages.drain(keep..).flatten().for_each(|page| pool.release(page));
    }

    /// Gives back the pages that no token from position `length` on sees through a window of `window` tokens, itself included.
    pub(crate) fn leave_behind(&mut self, pool: &mut Pool, length: usize, window: usize) {
        let seen = (length + 1).saturating_sub(window);
        for page in self.pages.iter_mut().take(seen / PAGE_TOKENS) {
            if let Some(page) = page.take() {
                pool.release(page);
            }
        }
    }

    /// Whether the pages are there that a token at position `length` sees through a window of `window` tokens, itself included.
    pub(crate) fn holds(&self, length: usize, window: usize) -> bool {
        let seen = (length + 1).saturating_sub(window) / PAGE_TOKENS;
        self.pages.iter().take(length.div_ceil(PAGE_TOKENS)).skip(seen).all(Option::is_some)
    }

    /// The same pages, held once more.
    pub(crate) fn fork(&self, pool: &mut Pool) -> Self {
        self.pages.iter().flatten().for_each(|&page| pool.share(page));
        Self { pages: self.pages.clone() }
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The row of a block table: -1 where there is no page.
    pub(crate) fn row(&self) -> impl Iterator<Item = i64> {
        self.pages.iter().map(|page| page.map_or(-1, i64::from))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Action {
        Append(usize, usize),
        Fork(usize),
        End(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0usize..8, 1usize..150).prop_map(|(sequence, count)| Action::Append(sequence, count)),
            2 => (0usize..8).prop_map(Action::Fork),
            1 => (0usize..8).prop_map(Action::End),
        ]
    }

    /// Contents of pages and what each sequence should read.
    struct Model {
        pool: Pool,
        contents: HashMap<(u32, usize), u64>,
        sequences: Vec<(Pages, Vec<u64>)>,
        next: u64,
    }

    impl Model {
        fn append(&mut self, index: usize, count: usize, window: Option<usize>) {
            let (pages, tokens) = &mut self.sequences[index];
            let (length, contents) = (tokens.len(), &mut self.contents);
            let grown = pages.grow(&mut self.pool, length, length + count, &mut |from, to| {
                for place in 0..PAGE_TOKENS {
                    let value = contents.get(&(from, place)).copied().unwrap_or(0);
                    contents.insert((to, place), value);
                }
            });
            if !grown {
                pages.truncate(&mut self.pool, length);
                return;
            }
            for position in length..length + count {
                let page = pages.pages[position / PAGE_TOKENS].expect("the newest page is there");
                assert!(!self.pool.is_shared(page), "page {page} is written by one of its holders");
                contents.insert((page, position % PAGE_TOKENS), self.next);
                tokens.push(self.next);
                self.next += 1;
            }
            if let Some(window) = window {
                pages.leave_behind(&mut self.pool, tokens.len(), window);
            }
        }

        fn check(&self, window: Option<usize>) {
            let mut held = vec![0; self.pool.pages()];
            for (pages, tokens) in &self.sequences {
                pages.pages.iter().flatten().for_each(|&page| held[page as usize] += 1);
                let first = window.map_or(0, |window| (tokens.len() + 1).saturating_sub(window));
                for (position, token) in tokens.iter().enumerate().skip(first) {
                    let page = pages.pages[position / PAGE_TOKENS].expect("a page that is seen is there");
                    assert_eq!(self.contents[&(page, position % PAGE_TOKENS)], *token);
                }
            }
            assert_eq!(held, self.pool.holders);
            assert_eq!(self.pool.free(), held.iter().filter(|&&count| count == 0).count());
        }
    }

    proptest! {
        #[test]
        fn sequences_read_what_they_wrote(
            actions in prop::collection::vec(action(), 1..60),
            window in prop_oneof![Just(None), (1usize..200).prop_map(Some)],
            pages in 1usize..24,
        ) {
            let mut model =
                Model { pool: Pool::new(pages), contents: HashMap::new(), sequences: vec![], next: 1 };
            model.sequences.push(Default::default());
            for action in actions {
                let count = model.sequences.len();
                match action {
                    Action::Append(index, tokens) => model.append(index % count, tokens, window),
                    Action::Fork(index) if count < 6 => {
                        let (pages, tokens) = &model.sequences[index % count];
                        let fork = (pages.fork(&mut model.pool), tokens.clone());
                        model.sequences.push(fork);
                    }
                    Action::Fork(_) => {}
                    Action::End(index) => {
                        let (mut pages, _) = model.sequences.swap_remove(index % count);
                        pages.truncate(&mut model.pool, 0);
                        if model.sequences.is_empty() {
                            model.sequences.push(Default::default());
                        }
                    }
                }
                model.check(window);
            }
        }
    }

    #[test]
    fn a_window_keeps_what_it_sees() {
        for (window, length, kept) in
            [(1, 64, 0), (2, 64, 1), (64, 127, 1), (65, 127, 2), (64, 128, 1), (65, 128, 1)]
        {
            let (mut pool, mut pages) = (Pool::new(4), Pages::default());
            assert!(pages.grow(&mut pool, 0, length, &mut |_, _| {}));
            pages.leave_behind(&mut pool, length, window);
            assert_eq!(
                pages.row().filter(|&page| page >= 0).count(),
                kept,
                "window {window}, length {length}"
            );
        }
    }
}
