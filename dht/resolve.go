package dht

import (
	"context"
	"errors"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/go-cid"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/celldnet/celld/cellproto"
)

const (
	// maxNameDepth is how many names may lead to one another: a DNSLink to a name to a CID is two.
	maxNameDepth = 4
	// maxNameLen is how long a name may be: a domain has at most 253 bytes, an IPNS name less.
	maxNameLen = 260
	// maxTXT is how many TXT records of a domain are looked at.
	maxTXT = 64
)

// domainForm is that of a domain with at least two labels, and no label over 63 bytes.
var domainForm = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)+[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$`)

func systemDNS() TXTResolver { return net.DefaultResolver }

// IsName reports whether s has the form of something that ResolveName takes: an IPNS name or a
// domain, with or without /ipns/ in front.
func IsName(s string) bool {
	s = strings.TrimPrefix(s, ipns.NamespacePrefix)
	if len(s) > maxNameLen {
		return false
	}
	if _, err := ipns.NameFromString(s); err == nil {
		return true
	}
	return domainForm.MatchString(s)
}

// ResolveName gives the CID that a name stands for: an IPNS name (k51…, or a peer ID as text) or a
// domain with a DNSLink, with or without /ipns/ in front. At most 4 names may lead to one another.
// What was found is remembered for at most a minute.
//
// The error is NotFound when there is no such record, Unavailable when nobody could be asked,
// Timeout when ctx ended first, BadInput for what is no name or does not lead to a CID.
func (d *DHT) ResolveName(ctx context.Context, name string) (cid.Cid, error) {
	ctx, done, ok := d.begin(ctx)
	if !ok {
		return cid.Undef, cellproto.Errorf("resolve "+name, cellproto.Unavailable, "%w", errNotRunning)
	}
	defer done()
	asked := name
	for range maxNameDepth {
		op := "resolve " + clip(name)
		value, err := d.names.step(ctx, op, strings.TrimPrefix(name, ipns.NamespacePrefix))
		if err != nil {
			return cid.Undef, err
		}
		namespace, root, err := splitPath(value)
		if err != nil {
			return cid.Undef, cellproto.Errorf(op, cellproto.BadInput, "it stands for %q: %w", clip(value), err)
		}
		if namespace == "ipfs" {
			c, err := cid.Decode(root)
			if err != nil {
				return cid.Undef, cellproto.Errorf(op, cellproto.BadInput, "it stands for %q, which is no CID: %w", clip(value), err)
			}
			return c, nil
		}
		name = root
	}
	return cid.Undef, cellproto.Errorf("resolve "+clip(asked), cellproto.BadInput, "more than %d names lead to one another", maxNameDepth).
		WithHint("Have the name stand for /ipfs/<cid>.")
}

// step gives the path that one name stands for.
func (n *names) step(ctx context.Context, op, name string) (string, error) {
	if len(name) <= maxNameLen {
		if id, err := ipns.NameFromString(name); err == nil {
			return n.fromIPNS(ctx, op, id)
		}
		if domainForm.MatchString(name) {
			return n.fromDNS(ctx, op, strings.ToLower(strings.TrimSuffix(name, ".")))
		}
	}
	return "", cellproto.Errorf(op, cellproto.BadInput, "it is neither an IPNS name nor a domain").
		WithHint("An IPNS name begins with k51, as `cellctl publish` prints it.")
}

// fromIPNS gives the path in the newest record of a name.
func (n *names) fromIPNS(ctx context.Context, op string, name ipns.Name) (string, error) {
	if value, ok := n.recall(name.String()); ok {
		return value, nil
	}
	rec, _ := n.load(ctx, name) // without it the network is asked
	if rec != nil && ipns.ValidateWithName(rec, name) != nil {
		rec = nil // it was published here, but has expired
	}
	data, err := router{n.d}.GetValue(ctx, string(name.RoutingKey()), kad.Quorum(nameQuorum))
	rec = newer(rec, valid(data, name))
	if rec != nil {
		n.remember(name.String(), rec)
		if value := valueOf(rec); value != "" {
			return value, nil
		}
		return "", cellproto.Errorf(op, cellproto.BadInput, "its record has no path")
	}
	t := n.d.tables.Load()
	switch {
	case ctx.Err() != nil:
		return "", cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "no record was found in time: %w", ctx.Err()).
			WithHint("Give it more time with --timeout, or use the CID itself.")
	case t == nil || t.size() == 0:
		return "", n.d.noPeers(op)
	case err == nil || errors.Is(err, routing.ErrNotFound):
		return "", cellproto.Errorf(op, cellproto.NotFound, "nobody on the network %q has a record of this name", n.d.cfg.Network).
			WithHint("The owner publishes it with `cellctl publish`; a record expires 48 hours after its publisher was last there.")
	}
	return "", cellproto.Errorf(op, kindOr(err, cellproto.Unavailable), "%w", err)
}

// fromDNS gives the path in the DNSLink of a domain (https://dnslink.dev): the TXT record of
// _dnslink.<domain> that begins with "dnslink=", of several the first by their bytes.
func (n *names) fromDNS(ctx context.Context, op, domain string) (string, error) {
	if value, ok := n.recall(domain); ok {
		return value, nil
	}
	records, err := n.dns.LookupTXT(ctx, "_dnslink."+domain)
	if err != nil {
		return "", dnsError(ctx, op, domain, err)
	}
	if len(records) > maxTXT {
		records = records[:maxTXT]
	}
	var links []string
	for _, r := range records {
		if link, ok := strings.CutPrefix(r, "dnslink="); ok {
			links = append(links, strings.TrimSpace(link))
		}
	}
	if len(links) == 0 {
		return "", cellproto.Errorf(op, cellproto.NotFound, "the domain has no DNSLink").
			WithHint("Its owner adds a TXT record _dnslink.%s with the text dnslink=/ipns/<name> or dnslink=/ipfs/<cid>.", domain)
	}
	slices.Sort(links)
	n.cache.Add(domain, cachedName{value: links[0], expires: n.d.now().Add(nameTTL)})
	return links[0], nil
}

// dnsError gives a failed TXT query its kind and hint.
func dnsError(ctx context.Context, op, domain string, err error) error {
	var failed *net.DNSError
	isDNS := errors.As(err, &failed)
	switch {
	case ctx.Err() != nil:
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", err)
	case isDNS && failed.IsNotFound:
		return cellproto.Errorf(op, cellproto.NotFound, "%w", err).
			WithHint("Check the spelling of the domain; it needs a TXT record _dnslink.%s.", domain)
	case isDNS && failed.IsTimeout:
		return cellproto.Errorf(op, cellproto.Timeout, "%w", err).WithHint("Check this machine's DNS server.")
	}
	return cellproto.Errorf(op, cellproto.Unavailable, "%w", err).WithHint("Check this machine's DNS server.")
}

// splitPath takes /ipfs/<cid> or /ipns/<name> apart. Nothing may follow: a cell is a block, not a
// file in a directory.
func splitPath(path string) (namespace, root string, err error) {
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	if len(parts) < 3 || parts[0] != "" || parts[2] == "" {
		return "", "", errors.New("this is not a path like /ipfs/<cid> or /ipns/<name>")
	}
	if parts[1] != "ipfs" && parts[1] != "ipns" {
		return "", "", errors.New("only /ipfs/ and /ipns/ are known")
	}
	if len(parts) > 3 {
		return "", "", errors.New("nothing may follow the CID")
	}
	return parts[1], parts[2], nil
}

// remember keeps a record's path for the time that it allows.
func (n *names) remember(name string, rec *ipns.Record) {
	value := valueOf(rec)
	if value == "" {
		return
	}
	life := nameTTL
	if ttl, err := rec.TTL(); err == nil && ttl < life {
		life = ttl
	}
	expires := n.d.now().Add(life)
	if eol, err := rec.Validity(); err == nil && eol.Before(expires) {
		expires = eol
	}
	n.cache.Add(name, cachedName{value: value, expires: expires})
}

// recall gives the path that was remembered for a name and is still good.
func (n *names) recall(name string) (string, bool) {
	found, ok := n.cache.Get(name)
	if !ok || !n.d.now().Before(found.expires) {
		return "", false
	}
	return found.value, true
}

// clip shortens what a stranger may have written for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
