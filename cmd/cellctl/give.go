package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) giveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "give",
		Short: "Lend what this machine does not use to strangers' cells",
		Long: "Have this machine run strangers' cells while nobody uses it, confined and within limits.\n" +
			"It pauses within a second when somebody comes to the machine, within two on battery, with the lid closed,\n" +
			"on a metered network, and when others need the machine; it goes on after a quiet minute.\n\n" +
			"What a flag does not name stays as it was set last. The limits are those of all hosted cells together.\n" +
			"Whoever owns a machine can read what it runs: those whose cells you host can be read by you.",
		Example: "  cellctl give\n" +
			"  cellctl give --cpu 25% --ram 2% --disk 1MB/s --until 08:00\n" +
			"  cellctl give --schedule \"mon-fri 22:00-07:00, sat,sun\"\n" +
			"  cellctl give --max --allow 12D3KooW...",
		Args: cobra.ArbitraryArgs,
	}
	f := addGiveFlags(cmd)
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		change, err := f.change(cmd, time.Now())
		if err != nil {
			return err
		}
		return a.give(cmd, *timeout, "give", func(ctx context.Context, c *ctl.Client) (ctl.Giving, error) {
			return c.Give(ctx, change)
		})
	}
	cmd.AddCommand(a.giveStatusCmd(), a.giveStopCmd())
	return cmd
}

// give asks the nucleus of the home cell, which alone gives, and shows how it is.
func (a *app) give(cmd *cobra.Command, timeout time.Duration, op string, do func(context.Context, *ctl.Client) (ctl.Giving, error)) error {
	home, err := a.homeDir()
	if err != nil {
		return err
	}
	ctx, cancel, err := deadline(cmd, timeout)
	if err != nil {
		return err
	}
	defer cancel()
	p := a.progress()
	defer p.done()
	client, err := a.client(ctx, home, p)
	if err != nil {
		return err
	}
	g, err := do(ctx, client)
	if err != nil {
		return badTarget(fromControl(op, home, err))
	}
	p.done()
	if a.json {
		return a.printJSON(g)
	}
	return a.showGiving(g)
}

func (a *app) giveStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show what this machine gives, to whom, and why it is paused", Args: args(0, 0)}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.give(cmd, *timeout, "ask what is given", func(ctx context.Context, c *ctl.Client) (ctl.Giving, error) {
			return c.GiveStatus(ctx)
		})
	}
	return cmd
}

func (a *app) giveStopCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "stop", Short: "Give nothing any more",
		Long: "Give nothing any more: callers of what is hosted move on, and it is stopped and removed. The limits stay set.",
		Args: args(0, 0),
	}
	timeout := timeoutFlag(cmd, time.Minute)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		off := false
		return a.give(cmd, *timeout, "stop giving", func(ctx context.Context, c *ctl.Client) (ctl.Giving, error) {
			return c.Give(ctx, ctl.GiveChange{On: &off})
		})
	}
	return cmd
}

// giveFlags are the flags of cellctl give, as they were typed.
type giveFlags struct {
	cpu, ram, disk, busy, until, schedule, credit string
	allow, deny                                   []string
	max, gpu, source                              bool
	hosts                                         int
}

func addGiveFlags(cmd *cobra.Command) *giveFlags {
	f, set := &giveFlags{}, cmd.Flags()
	set.StringVar(&f.cpu, "cpu", "10%", "share of this machine's processors")
	set.StringVar(&f.ram, "ram", "10%", "share of its memory")
	set.StringVar(&f.disk, "disk", "5MB/s", "what is read from disks a second, and as much that is written")
	set.BoolVar(&f.max, "max", false, "everything that nobody else uses, while you are away")
	set.StringVar(&f.busy, "busy", "70%", "pause while others keep the processors, or a disk, busier than that")
	set.StringVar(&f.until, "until", "never", "when to stop: 08:00, 2h, 2030-01-31T08:00, or never")
	set.StringVar(&f.schedule, "schedule", "always", `when in the week, such as "mon-fri 22:00-07:00, sat,sun"`)
	set.StringArrayVar(&f.allow, "allow", nil, "peer `ID` of a publisher whose cells are taken up, or all; may be repeated")
	set.StringArrayVar(&f.deny, "deny", nil, "`CID` of a cell that is not taken up, or peer ID of a publisher, or none; may be repeated")
	set.IntVar(&f.hosts, "hosts", 4, "how many cells at once")
	set.BoolVar(&f.gpu, "gpu", false, "refused: a program in a sandbox sees no GPU")
	set.BoolVar(&f.source, "build-from-source", false, "build cells that have no program for this machine, in a sandbox")
	set.StringVar(&f.credit, "credit-to", "self", "peer ID of the account or pool that is credited, the `name` of a pool, or self")
	return f
}

// change gives what the flags that were given ask for.
func (f *giveFlags) change(cmd *cobra.Command, now time.Time) (c ctl.GiveChange, err error) {
	on := true
	c.On = &on
	given := cmd.Flags().Changed
	if err := f.numbers(given, now, &c); err != nil {
		return c, err
	}
	for _, p := range []struct {
		flag, nobody string
		list         []string
		to           **[]string
	}{{"allow", "all", f.allow, &c.Allow}, {"deny", "none", f.deny, &c.Deny}} {
		if given(p.flag) {
			list := p.list
			if len(list) == 1 && list[0] == p.nobody {
				list = []string{}
			}
			*p.to = &list
		}
	}
	if given("credit-to") {
		text := f.credit
		if text == "self" {
			text = ""
		}
		c.CreditTo = &text
	}
	keep := func(flag string, set func()) {
		if given(flag) {
			set()
		}
	}
	keep("max", func() { c.Max = &f.max })
	keep("schedule", func() { c.Schedule = &f.schedule })
	keep("hosts", func() { c.Hosts = &f.hosts })
	keep("gpu", func() { c.GPU = &f.gpu })
	keep("build-from-source", func() { c.BuildFromSource = &f.source })
	return c, nil
}

// numbers takes the options that are numbers or times.
func (f *giveFlags) numbers(given func(string) bool, now time.Time, c *ctl.GiveChange) error {
	wrong := func(flag string, err error) error {
		return usageError{cellproto.Errorf("give --"+flag, cellproto.BadInput, "%w", err).WithHint("%s", cellproto.HintOf(err))}
	}
	for _, p := range []struct {
		flag, text string
		to         **float64
	}{{"cpu", f.cpu, &c.CPU}, {"ram", f.ram, &c.RAM}, {"busy", f.busy, &c.Busy}} {
		if given(p.flag) {
			v, err := parsePercent(p.text)
			if err != nil {
				return wrong(p.flag, err)
			}
			*p.to = &v
		}
	}
	if given("disk") {
		v, err := parseRate(f.disk)
		if err != nil {
			return wrong("disk", err)
		}
		c.Disk = &v
	}
	if given("until") {
		t, err := parseUntil(f.until, now)
		if err != nil {
			return wrong("until", err)
		}
		c.Until = &t
	}
	return nil
}

// parsePercent reads a share of the machine: 10%.
func parsePercent(text string) (float64, error) {
	number := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "%"))
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v > 0 && v <= 100) {
		return 0, cellproto.Errorf("", cellproto.BadInput, "%.40q is no share of a machine", text).WithHint("A share is a percentage up to 100%%, such as 10%%.")
	}
	return v, nil
}

// parseRate reads bytes a second: 5MB/s, 512KiB/s.
func parseRate(text string) (int64, error) {
	bad := cellproto.Errorf("", cellproto.BadInput, "%.40q is no rate", text).WithHint("A rate is a size a second, such as 5MB/s or 512KiB/s.")
	number, unit := strings.TrimSuffix(strings.TrimSpace(text), "/s"), 1.0
	for _, u := range []struct {
		name  string
		bytes float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = rest, u.bytes
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(v > 0 && v*unit <= 1e15) {
		return 0, bad
	}
	return int64(v * unit), nil
}

// parseUntil reads a time to come: of the clock, the next one that it shows; a duration from now; a date. The
// zero time is never.
func parseUntil(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if text == "never" {
		return time.Time{}, nil
	}
	if t, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()+1, t.Hour(), t.Minute(), 0, 0, now.Location())
		}
		return at, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			if !t.After(now) {
				return t, cellproto.Errorf("", cellproto.BadInput, "%s is over already", text).WithHint("--until 08:00, or --until never")
			}
			return t, nil
		}
	}
	return time.Time{}, cellproto.Errorf("", cellproto.BadInput, "%.40q is no time to come", text).
		WithHint("A time is 08:00, 2h, 2030-01-31T08:00, or never.")
}

// shownRefused is of how many offers that were not taken people are told.
const shownRefused = 3

// refusedRows says why offers were not taken of late.
func refusedRows(list []ctl.Refused) (rows [][]string) {
	for _, r := range list[:min(len(list), shownRefused)] {
		rows = append(rows, []string{"refused", fmt.Sprintf("%s: %s (%s, %d times)", r.Name, r.Why, r.At.Local().Format("15:04"), r.Times)})
	}
	return rows
}

func (a *app) showGiving(g ctl.Giving) error {
	state := "off"
	switch {
	case g.Running:
		state = "on"
	case g.On:
		state = "on, paused"
	}
	rows := [][]string{{"giving", state}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if g.On {
		add("because", g.Why)
	}
	disk := "no limit"
	if g.Disk > 0 {
		disk = bytesText(g.Disk) + "/s"
	}
	cells := fmt.Sprintf("%d cells", g.Hosts)
	if g.Places > 0 && g.Places < g.Hosts {
		cells += fmt.Sprintf(" (there is memory for %d)", g.Places)
	}
	if g.Max && !g.Running {
		add("at most", "all that nobody else uses, "+cells)
	} else {
		add("at most", fmt.Sprintf("%.4g %% of the processors, %.4g %% of the memory, %s of disk, %s", g.CPU, g.RAM, disk, cells))
	}
	add("held by", g.LimitBy)
	add("busy above", fmt.Sprintf("%.4g %%", g.Busy))
	add("used now", fmt.Sprintf("%.1f %% of the processors, %s of memory, %s/s of disk", g.Used.CPU, bytesText(g.Used.RSS), bytesText(g.Used.Disk)))
	if g.Until != nil {
		add("until", g.Until.Local().Format("Mon 2 Jan 15:04"))
	}
	add("when", g.Schedule)
	for _, id := range g.Allow {
		add("allowed", id)
	}
	for _, id := range g.Deny {
		add("denied", id)
	}
	if g.Source {
		add("builds", "what has no program for this machine")
	}
	for _, s := range g.Sensors {
		text := s.Says
		if s.By != "" {
			text += " (" + s.By + ")"
		}
		add(s.Of, text)
	}
	add("error", g.Error)
	if err := a.table(append(rows, refusedRows(g.Refused)...)); err != nil || len(g.Hosted) == 0 {
		return err
	}
	return a.showHosted(g.Hosted)
}

func (a *app) showHosted(hosted []ctl.HostedRow) error {
	table := [][]string{{"CELL", "VERSION", "STATE", "CPU", "MEMORY", "SINCE", "FOR", "PUBLISHER", "CID"}}
	var failed [][]string
	for _, h := range hosted {
		table = append(table, []string{
			h.Name, h.Version, h.State, fmt.Sprintf("%.1f %%", h.CPU), bytesText(h.RSS), h.Since.Local().Format(time.DateTime), h.ForWhom, h.Publisher, h.CID,
		})
		if h.Error != "" {
			failed = append(failed, []string{h.Name, h.Error})
		}
	}
	if err := a.table(table); err != nil || len(failed) == 0 {
		return err
	}
	return a.table(failed)
}

// bytesText shows a number of bytes as people read it.
func bytesText(n int64) string {
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.bytes), u.name)
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}
