package node

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// What people are told of the ledger's files: how they were when the nucleus started, and what has changed in them since.

// damage says what of them was not as it had been written, or "".
func (a *accounts) damage() string {
	if a.report == nil {
		return ""
	}
	return damageOf(a.report, a.led.Harm().Damaged)
}

// damageOf gives the words. damaged files were found in all, those of the report included.
func damageOf(r *ledger.Report, damaged uint64) string {
	var parts []string
	say := func(files []string, format string) {
		if len(files) > 0 {
			parts = append(parts, fmt.Sprintf(format, strings.Join(files, ", ")))
		}
	}
	say(r.Unread, "a part cannot be read (%s); what it has comes back from those who signed it, or when it can be read at a start")
	say(ledger.PutAside(r.Damaged), "a part was damaged and is put aside (%s); what it had comes back from those who signed it")
	say(r.Aside, "a part that was damaged before is kept (%s)")
	if since := int(damaged) - len(r.Damaged); since > 0 {
		parts = append(parts, fmt.Sprintf("bytes of %d more of its files have changed on the disk since it was opened, and they are put aside (%s/*.seg.bad); what they had comes back from those who signed it, and from the next start on nothing is signed for a pool until they are removed", since, ledgerDir))
	}
	if len(r.Unread)+len(r.Damaged)+len(r.Aside) > 0 {
		parts = append(parts, "nothing is signed for a pool, for which it may have had a signature, until a start at which none of these files is in ledger/, or all can be read")
	}
	say(r.ReadOnly, "a part can only be read (%s); what is new goes to another file")
	if r.Truncated > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes at its end were not whole, as after a crash; what they had comes back from those who signed it", r.Truncated))
	}
	return strings.Join(parts, "; ")
}

// checkFiles says what is the matter with the files, if anything is. What keeps a member of a pool from signing is to be mended by its owner.
func (a *accounts) checkFiles(name string) (c ctl.Check, ok bool) {
	text := a.damage()
	if text == "" {
		return c, false
	}
	dir, restart := quote(a.n.cfg.Dir), "cellctl restart "+quote(a.n.cfg.Dir)
	aside := append(ledger.PutAside(a.report.Damaged), a.report.Aside...)
	switch {
	case len(a.report.Unread) > 0:
		return wrong(name, "dmesg and ls -l "+dir+"/"+ledgerDir+", for what is wrong with the file; then "+restart, "%s", text), true
	case len(aside) > 0 && a.own.atHome() && a.own.hasPools():
		for i, file := range aside {
			aside[i] = quote(filepath.Join(a.n.cfg.Dir, ledgerDir, file))
		}
		return wrong(name, "if the other members say that this account has signed nothing that they do not show: rm "+strings.Join(aside, " ")+"; "+restart, "%s", text), true
	}
	return good(name, "%s", text), true
}

// hasPools says whether this account has made or joined a pool, whose key log may be what was lost.
func (o *account) hasPools() bool {
	names, err := o.pools.read()
	return err != nil || len(names) > 0
}
