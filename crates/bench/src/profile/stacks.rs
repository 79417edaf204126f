//! What `perf script` prints, taken apart.

use std::collections::BTreeMap;

/// Where a thread was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The thread's name.
    pub(crate) thread: String,
    /// CPU time that it stands for, in nanoseconds.
    pub(crate) period: u64,
    /// From the innermost function outwards.
    pub(crate) frames: Vec<Frame>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) symbol: String,
    pub(crate) in_kernel: bool,
}

/// The stacks in the output of `perf script -F comm,tid,time,period,event,ip,sym,dso`. What isn't
/// one is left out.
pub(crate) fn parse(text: &str) -> Vec<Stack> {
    text.split("\n\n").filter_map(|block| stack(block.trim_matches('\n'))).collect()
}

fn stack(block: &str) -> Option<Stack> {
    let mut lines = block.lines();
    let (thread, period) = head(lines.next()?)?;
    let frames: Vec<Frame> = lines.filter_map(frame).collect();
    (!frames.is_empty()).then_some(Stack { thread, period, frames })
}

/// `http-0 16838  5296.718102:    2004008 cpu-clock:`; a thread's name may have blanks.
fn head(line: &str) -> Option<(String, u64)> {
    let (before, after) = line.split_once(": ")?;
    let (name_and_tid, _time) = before.trim_end().rsplit_once(' ')?;
    let (name, _tid) = name_and_tid.trim_end().rsplit_once(' ')?;
    let period = after.split_whitespace().next()?.parse().ok()?;
    Some((name.trim().to_owned(), period))
}

/// `ffffffff82027ed7 __tcp_transmit_skb ([kernel.kallsyms])`
fn frame(line: &str) -> Option<Frame> {
    let (_address, rest) = line.trim_start().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let in_kernel = object.starts_with("[kernel") || object.starts_with("[guest.kernel");
    Some(Frame { symbol: symbol.to_owned(), in_kernel })
}

/// One line for each different stack, outermost function first, as flame graphs are made of.
pub(crate) fn folded(stacks: &[Stack]) -> Vec<String> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks {
        let mut line = stack.thread.clone();
        for frame in stack.frames.iter().rev() {
            line.push(';');
            line.push_str(&frame.symbol.replace([';', '\n'], ","));
            if frame.in_kernel {
                line.push_str("_[k]");
            }
        }
        *sums.entry(line).or_default() += stack.period;
    }
    // Microseconds, since a flame graph shows the number as it is.
    sums.into_iter().map(|(line, period)| format!("{line} {}", period / 1000)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_taken_apart_and_folded() {
        let text = "my thread 16838  5296.718102:    2004008 cpu-clock: \n\
                    \tffffffff82027ed7 tcp_sendmsg ([kernel.kallsyms])\n\
                    \t          10aba4 f<a (b)> (inlined)\n\
                    \t          10aba4 [unknown] (/usr/lib/libc.so.6)\n\n\
                    no stack at all\n";
        let stacks = parse(text);
        assert_eq!(stacks.len(), 1);
        assert_eq!((stacks[0].thread.as_str(), stacks[0].period), ("my thread", 2_004_008));
        let symbols: Vec<_> = stacks[0].frames.iter().map(|f| (f.symbol.as_str(), f.in_kernel)).collect();
        assert_eq!(symbols, [("tcp_sendmsg", true), ("f<a (b)>", false), ("[unknown]", false)]);
        assert_eq!(
            folded(&[stacks[0].clone(), stacks[0].clone()]),
            ["my thread;[unknown];f<a (b)>;tcp_sendmsg_[k] 4008"]
        );
    }
}
