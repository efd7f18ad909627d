package sandbox

import (
	"fmt"
	"io"
)

// Support says what this machine can confine a program with.
type Support struct {
	OS     string `json:"os"`
	Kernel string `json:"kernel,omitempty"`
	// Landlock is the version of its ABI, 0 if there is none.
	Landlock int           `json:"landlock_abi"`
	Tiers    []TierSupport `json:"tiers"` // strongest first
	// What would hold the limits of a program: as in Report.
	CPUBy     string `json:"cpu_by,omitempty"`
	MemoryBy  string `json:"memory_by,omitempty"`
	ThreadsBy string `json:"threads_by,omitempty"`
}

// TierSupport says whether a tier works here: all its steps were tried, up to the program's start.
type TierSupport struct {
	Tier  Tier   `json:"tier"`
	Works bool   `json:"works"`
	Why   string `json:"why_not,omitempty"`
}

// Best gives the strongest tier that works; ok is false if none does, and then nobody's program but
// the owner's may run here.
func (s Support) Best() (best Tier, ok bool) {
	for _, t := range s.Tiers {
		if t.Works {
			return t.Tier, true
		}
	}
	return Auto, false
}

// String gives s in a line: the strongest tier that works, what would hold the limits, and why the
// stronger ones do not work.
func (s Support) String() string {
	best, ok := s.Best()
	var text, why string
	for _, t := range s.Tiers {
		if t.Works {
			break
		}
		why += fmt.Sprintf("; %v does not work: %s", t.Tier, t.Why)
	}
	if !ok {
		return "none, and no program of a stranger is run here" + why
	}
	text = fmt.Sprintf("%v (%s); CPU held by %s, memory by %s, threads by %s", best, best.describe(), s.CPUBy, s.MemoryBy, s.ThreadsBy)
	return text + why
}

// WriteText writes s for people.
func (s Support) WriteText(w io.Writer) error {
	landlock := "none"
	if s.Landlock > 0 {
		landlock = fmt.Sprintf("ABI %d", s.Landlock)
	}
	if _, err := fmt.Fprintf(w, "system   %s %s, Landlock %s\n", s.OS, s.Kernel, landlock); err != nil {
		return err
	}
	for _, t := range s.Tiers {
		line := "works"
		if !t.Works {
			line = "does not work: " + t.Why
		}
		if _, err := fmt.Fprintf(w, "%-8v %s\n", t.Tier, line); err != nil {
			return err
		}
	}
	if _, ok := s.Best(); !ok {
		_, err := fmt.Fprintln(w, "No program of a stranger is run on this machine.")
		return err
	}
	_, err := fmt.Fprintf(w, "limits   CPU: %s, memory: %s, threads: %s\n", s.CPUBy, s.MemoryBy, s.ThreadsBy)
	return err
}
