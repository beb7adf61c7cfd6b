//! The method, in one page.

/// Returns the paragraphs.
pub fn paragraphs() -> Vec<String> {
    [
        "**Rounds.** Every contestant is measured once in each round, in random order, so that a slow minute of the machine \
         meets all of them. The first round warms up and is left out. A round is the unit of independence: requests of one \
         round share an instance or a burst, and are reduced to one value before intervals are made.",
        "**Times.** The client notes times by CLOCK_MONOTONIC around its system calls: before and after connect(2), before the \
         first write(2), after the read(2) with the first byte and after that with the last one. Addresses are numeric. Waits, \
         boots and phases of boots are those of the daemon's `server-timing`, by its own clock.",
        "**Intervals.** From 20 rounds, the percentile bootstrap of rounds with 10,000 resamples; from 6 to 19 rounds, the exact \
         interval of their order statistics; below six, none. Fractions have Wilson's interval, distributions the band of \
         Dvoretzky, Kiefer and Wolfowitz. All are at 95 %.",
        "**Comparisons.** The ratio of two contestants is taken within each round, and its intervals are simultaneous for all \
         rows (Bonferroni). The first function takes part twice under two names, the A/A control. The interval of its ratio to \
         itself is the resolution of the run: smaller differences are not claimed. Two contestants are equal only if the whole \
         interval lies within ±3 %.",
        "**Nothing is removed.** Outliers are counted and drawn. A request counts as cold only if no instance was there before \
         and the daemon reports a boot, and as warm only if it reports none. Others are left out and counted. Every status \
         but 200 is a failure, and is counted with its status.",
        "**The rest of the machine.** Stolen time and the processor time of foreign processes are recorded with each sample. A \
         round with more than 1 % or 5 % of a processor is disturbed. It stays, and the tables have the median without such \
         rounds beside.",
        "**What this cannot show.** Client, daemon and functions share the processors of one machine. Processors, kernels and \
         disks of other machines give other figures, so ratios carry over better than times. Intervals cover chance within \
         this run, not what differs between days. Published values come from other machines, and stand in a column of their \
         own without any ratio.",
    ]
    .map(|paragraph| paragraph.replace("**", ""))
    .into()
}
