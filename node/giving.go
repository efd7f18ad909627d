package node

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/give"
)

// What the home cell's nucleus gives to strangers' cells.

// startGiving has the nucleus of the home cell give what its owner wants to give; others give nothing.
func (n *nucleus) startGiving(cfg Config, started *closers) error {
	home, err := filepath.Abs(homeOf(cfg))
	if err != nil || home != n.cfg.Dir {
		return err
	}
	log := n.log.Named("give")
	limits := newLimiter(home, log)
	n.giver = give.New(give.Config{Dir: home}, give.Deps{Sensors: give.NewSensors(log), Limiter: limits, Log: log})
	hosted := newHosting(n)
	limits.fetched = &hosted.intake.bytes
	n.giver.Attach(hosted)
	started.add(hosted.stop)
	n.giver.Start()
	started.add(n.giver.Stop) // it pauses what is hosted
	return nil
}

// gives says whether the nucleus has to stay although nobody calls.
func (n *nucleus) gives() bool { return n.giver != nil && n.giver.On() }

func (n *nucleus) giving() (*give.Giver, error) {
	if n.giver == nil {
		return nil, cellproto.Errorf("give", cellproto.Unsupported, "%s is not the home cell, which alone gives", n.cfg.Cell.Name).
			WithHint("cellctl give, which asks the home cell")
	}
	return n.giver, nil
}

func (n *nucleus) ctlGive(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	g, err := n.giving()
	if err != nil {
		return nil, err
	}
	c, err := ctl.ParseGive(r.URL.Query())
	if err != nil {
		return nil, cellproto.Errorf("read request", cellproto.BadInput, "%w", err)
	}
	if c.CreditTo != nil && *c.CreditTo != "" {
		key, err := n.accounts.own.resolve("give", *c.CreditTo)
		if err != nil {
			return nil, err
		}
		*c.CreditTo = textOf(key)
	}
	change, err := changeOf(&c)
	if err != nil {
		return nil, err
	}
	if err := g.Change(ctx, change); err != nil {
		return nil, err
	}
	return givingNow(ctx, g)
}

func givingNow(ctx context.Context, g *give.Giver) (any, error) {
	r, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	return givingOf(r), nil
}

func (n *nucleus) ctlGiveStatus(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	g, err := n.giving()
	if err != nil {
		return nil, err
	}
	return givingNow(ctx, g)
}

// changeOf gives what a change does to the settings.
func changeOf(c *ctl.GiveChange) (func(*give.Settings), error) {
	var schedule *give.Schedule
	if c.Schedule != nil {
		s, err := give.ParseSchedule(*c.Schedule)
		if err != nil {
			return nil, err
		}
		schedule = &s
	}
	if c.Until != nil && !c.Until.IsZero() && !c.Until.After(time.Now()) {
		return nil, cellproto.Errorf("give", cellproto.BadInput, "%v is over already", c.Until.Local().Format(time.DateTime)).
			WithHint("--until 08:00, or --until never")
	}
	if c.GPU != nil && *c.GPU {
		return nil, cellproto.Errorf("give", cellproto.Unsupported, "a GPU cannot be given: a program in a sandbox sees none, and nobody else's runs outside of one").
			WithHint("Give without --gpu.")
	}
	return func(s *give.Settings) {
		set(&s.On, c.On)
		set(&s.CPU, c.CPU)
		set(&s.RAM, c.RAM)
		set(&s.Disk, c.Disk)
		set(&s.Max, c.Max)
		set(&s.Busy, c.Busy)
		set(&s.Until, c.Until)
		set(&s.Schedule, schedule)
		set(&s.Policy.Allow, c.Allow)
		set(&s.Policy.Deny, c.Deny)
		set(&s.Policy.GPU, c.GPU)
		set(&s.Policy.Hosts, c.Hosts)
		set(&s.Policy.BuildFromSource, c.BuildFromSource)
		set(&s.Policy.CreditTo, c.CreditTo)
		if !s.On || !s.Until.After(time.Now()) {
			s.Until = time.Time{} // it was for that time only
		}
	}, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// givingOf gives a report as the control API has it.
func givingOf(r give.Report) ctl.Giving {
	s, d, snap := r.Settings, r.Decision, r.Snapshot
	g := ctl.Giving{
		On: s.On, Running: d.Run, Why: d.Why, CPU: s.CPU, RAM: s.RAM, Disk: s.Disk, Hosted: []ctl.HostedRow{},
		Memory: d.Caps.Memory, LimitBy: r.By, Used: ctl.GivenUse{CPU: r.Used.CPUPercent, RSS: r.Used.RSS, Disk: r.Used.DiskBPS},
		Max: s.Max, Busy: s.Busy, Until: timeOrNil(s.Until), Schedule: s.Schedule.String(), Hosts: s.Policy.Hosts,
		Allow: orEmpty(s.Policy.Allow), Deny: orEmpty(s.Policy.Deny), GPU: s.Policy.GPU, Source: s.Policy.BuildFromSource,
		CreditTo: s.Policy.CreditTo, Sensors: []ctl.SensorRow{}, Looked: timeOrNil(snap.At), Places: r.Places(), Refused: []ctl.Refused{},
	}
	if d.Run && s.Max {
		g.CPU, g.Disk = d.Caps.CPU, d.Caps.Disk
		if snap.Load.Total > 0 {
			g.RAM = 100 * float64(d.Caps.Memory) / float64(snap.Load.Total)
		}
	}
	if s.On {
		g.Again = timeOrNil(d.Again)
	}
	if r.Err != nil {
		g.Error = r.Err.Error()
	}
	for _, row := range r.Rows {
		g.Hosted = append(g.Hosted, ctl.HostedRow{
			CID: row.CID, Name: row.Name, Version: row.Version, Dir: row.Dir, Publisher: row.Publisher, ForWhom: row.ForWhom,
			State: row.State, Since: row.Since, CPU: row.CPUPercent, RSS: row.RSS, Memory: row.Memory, Disk: row.DiskBPS, Error: row.Error,
		})
	}
	for _, refusal := range r.Refused {
		g.Refused = append(g.Refused, ctl.Refused(refusal))
	}
	for _, sensor := range snap.Sensors {
		g.Sensors = append(g.Sensors, ctl.SensorRow(sensor))
	}
	return g
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
