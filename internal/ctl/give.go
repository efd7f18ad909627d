package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// GiveChange changes what a machine gives to strangers' cells. What is nil stays as it is.
type GiveChange struct {
	On              *bool      `json:"on,omitempty"`
	CPU             *float64   `json:"cpu_percent,omitempty"` // of the machine
	RAM             *float64   `json:"ram_percent,omitempty"`
	Disk            *int64     `json:"disk_bps,omitempty"`     // bytes a second
	Max             *bool      `json:"max,omitempty"`          // all that nobody else uses
	Busy            *float64   `json:"busy_percent,omitempty"` // that others may keep it, before it pauses
	Until           *time.Time `json:"until,omitempty"`        // the zero time: nothing ends it
	Schedule        *string    `json:"schedule,omitempty"`     // "mon-fri 22:00-07:00, sat,sun"; "always"
	Allow           *[]string  `json:"allow,omitempty"`        // peer IDs of publishers; none: all
	Deny            *[]string  `json:"deny,omitempty"`         // CIDs, and peer IDs of publishers
	GPU             *bool      `json:"gpu,omitempty"`
	Hosts           *int       `json:"hosts,omitempty"` // cells at once
	BuildFromSource *bool      `json:"build_from_source,omitempty"`
	CreditTo        *string    `json:"credit_to,omitempty"` // peer ID of an account; "": the owner's
}

// MaxGiveChange bounds, in bytes, the text of a GiveChange.
const MaxGiveChange = 48 << 10

// Query gives c as the query of its URL.
func (c *GiveChange) Query() (url.Values, error) {
	b, err := json.Marshal(c)
	if err == nil && len(b) > MaxGiveChange {
		err = fmt.Errorf("it has %d bytes, at most %d", len(b), MaxGiveChange)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write what to give: %w", err)
	}
	return url.Values{"change": {string(b)}}, nil
}

// ParseGive is the inverse of Query. It is strict: a wish that is not understood is not half fulfilled.
func ParseGive(q url.Values) (GiveChange, error) {
	var c GiveChange
	text := q.Get("change")
	if len(text) > MaxGiveChange {
		return c, fmt.Errorf("change has %d bytes, at most %d", len(text), MaxGiveChange)
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, fmt.Errorf("change is not what can be changed: %w", err)
	}
	if dec.More() {
		return c, fmt.Errorf("something follows the change")
	}
	return c, nil
}

// Giving is what a machine gives.
type Giving struct {
	On      bool   `json:"on"`      // the owner wants to give
	Running bool   `json:"running"` // it does now
	Why     string `json:"why"`     // it does not; ""
	// What all hosted cells together may use.
	CPU  float64 `json:"cpu_percent"` // of the machine
	RAM  float64 `json:"ram_percent"`
	Disk int64   `json:"disk_bps"` // bytes a second; 0: no limit

	Hosted []HostedRow `json:"hosted"`

	Memory   int64       `json:"memory"`  // bytes that RAM is now; less where others need it
	Places   int         `json:"places"`  // cells for which there is memory now, at most Hosts; 0: paused
	LimitBy  string      `json:"held_by"` // what holds these limits
	Used     GivenUse    `json:"used"`
	Max      bool        `json:"max"`
	Busy     float64     `json:"busy_percent"`
	Until    *time.Time  `json:"until,omitempty"`
	Schedule string      `json:"schedule"`
	Hosts    int         `json:"hosts"` // cells at once
	Allow    []string    `json:"allow"`
	Deny     []string    `json:"deny"`
	GPU      bool        `json:"gpu"`
	Source   bool        `json:"build_from_source"`
	CreditTo string      `json:"credit_to,omitempty"`
	Sensors  []SensorRow `json:"sensors"`
	Looked   *time.Time  `json:"looked,omitempty"` // when everything was looked at last
	Again    *time.Time  `json:"again,omitempty"`  // when it is at the latest
	Error    string      `json:"error,omitempty"`  // what is not as it should be
	Refused  []Refused   `json:"refused"`          // offers that were not taken of late, the newest first
}

// Refused is an offer that was not taken.
type Refused struct {
	At    time.Time `json:"at"` // the last time
	CID   string    `json:"cid"`
	Name  string    `json:"name"`
	Why   string    `json:"why"`
	Times int       `json:"times"`
}

// GivenUse is what all hosted cells together use now.
type GivenUse struct {
	CPU  float64 `json:"cpu_percent"` // of the machine
	RSS  int64   `json:"rss"`         // bytes
	Disk int64   `json:"disk_bps"`
}

// HostedRow is one stranger's cell on this machine.
type HostedRow struct {
	CID       string    `json:"cid"`
	Name      string    `json:"name"`
	Version   string    `json:"version"`
	Dir       string    `json:"dir"`
	Publisher string    `json:"publisher"` // peer ID of the account that signed it
	ForWhom   string    `json:"for"`       // peer ID of who asked for it
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	CPU       float64   `json:"cpu_percent"` // of the machine
	RSS       int64     `json:"rss"`         // bytes
	Memory    int64     `json:"memory"`      // bytes that its program may use
	Disk      int64     `json:"disk_bps"`
	Error     string    `json:"error,omitempty"`
}

// SensorRow is one of the things that are looked at.
type SensorRow struct {
	Of   string `json:"of"`
	By   string `json:"by"`
	Says string `json:"says"`
}

// Give changes what this machine gives, and says how it is then.
func (c *Client) Give(ctx context.Context, change GiveChange) (Giving, error) {
	q, err := change.Query()
	if err != nil {
		return Giving{}, err
	}
	return result[Giving](ctx, c, "POST", RouteGive, withTimeout(ctx, q))
}

// GiveStatus says what this machine gives.
func (c *Client) GiveStatus(ctx context.Context) (Giving, error) {
	return result[Giving](ctx, c, "GET", RouteGiveStatus, nil)
}
