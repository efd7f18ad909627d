// Command typed measures generated clients: what encoding and decoding a message costs beside protobuf, and
// a call beside one that is written by hand over the SDK. Both sides of a comparison run in turns.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/bench/peers/typed/item"
	"github.com/celldnet/celld/bench/peers/typed/shop"
	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/cellproto/wire"
)

var sample = shop.Item{
	ID: 1234567890123, Name: "A chair of oak, oiled", Email: "somebody@example.org", Tags: []string{"wood", "furniture", "oak"},
	Price: 129.95, Active: true, Count: 12, Comment: "Four legs, no arms; it stands well on any floor that is even, mostly.",
}

var sampleProto = &item.Item{
	Id: sample.ID, Name: sample.Name, Email: sample.Email, Tags: sample.Tags, Price: sample.Price, Active: sample.Active,
	Count: sample.Count, Comment: sample.Comment,
}

// usage: typed [--schema | ROUNDS]. It prints a line of JSON for each comparison: load.Turns.
func main() {
	if len(os.Args) == 2 && os.Args[1] == "--schema" {
		serve(nil)
	}
	rounds := 11
	if len(os.Args) == 2 {
		n, err := strconv.Atoi(os.Args[1])
		if err != nil || n < 1 {
			fail(fmt.Errorf("usage: typed [ROUNDS | --schema]"))
		}
		rounds = n
	}
	if err := run(rounds); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "typed:", err)
	os.Exit(1)
}

// serve is the cell: it gives back what it gets.
func serve(t cellproto.Transport) error {
	same := cell.Func("same", func(_ context.Context, in shop.SameArgs) (shop.Item, error) { return in.Item, nil }).Pure()
	cfg := cell.Config{Name: "shop"}
	if t == nil {
		cfg.Main(same)
	}
	return cfg.Serve(context.Background(), t, same)
}

func run(rounds int) error {
	var w wire.Writer
	shop.Encode(&w, &sample)
	bytes, err := proto.Marshal(sampleProto)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("encode and decode a message of %d bytes, generated code / of %d bytes, protobuf", len(w.B), len(bytes))
	compare(what, 1.2, rounds, 20000, codec, protobuf)

	here, there := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- serve(there) }()
	conn, err := cellproto.NewConn(here, cellproto.Config{Opener: true})
	if err != nil {
		return err
	}
	ran := make(chan struct{})
	go func() { conn.Run(); close(ran) }()
	defer func() { conn.Close(); <-ran; <-served }()
	client := cell.NewClient(conn)
	stub := shop.New(client)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	generated := func() { check(stub.Same(ctx, shop.SameArgs{Item: sample})) }
	byHand := func() {
		var out shop.Item
		reply, err := client.Do(ctx, &cell.Request{Func: "same", Args: shop.SameArgs{Item: sample}})
		if err == nil {
			err = reply.Decode(&out)
		}
		check(out, err)
	}
	allocs := fmt.Sprintf("; allocations of both sides: %.0f / %.0f", testing.AllocsPerRun(2000, generated), testing.AllocsPerRun(2000, byHand))
	compare("a call, generated client / by hand over the SDK"+allocs, 1.1, rounds, 3000, generated, byHand)
	return nil
}

func check(out shop.Item, err error) {
	if err == nil && (out.ID != sample.ID || out.Comment != sample.Comment || len(out.Tags) != len(sample.Tags)) {
		err = fmt.Errorf("another item came back: %+v", out)
	}
	if err != nil {
		fail(err)
	}
}

var writer wire.Writer

func codec() {
	writer.B = writer.B[:0]
	shop.Encode(&writer, &sample)
	r := wire.NewReader(writer.B)
	out := shop.Decode(&r)
	check(out, r.Done())
}

var buffer []byte

func protobuf() {
	var err error
	if buffer, err = (proto.MarshalOptions{}).MarshalAppend(buffer[:0], sampleProto); err != nil {
		fail(err)
	}
	var out item.Item
	if err := proto.Unmarshal(buffer, &out); err != nil || out.Id != sample.ID {
		fail(fmt.Errorf("protobuf: %v", err))
	}
}

// compare prints how long a call of each of two functions takes, in each round. atMost is the goal for their ratio.
func compare(what string, atMost float64, rounds, calls int, ours, peer func()) {
	one := func(f func()) float64 {
		begun := time.Now()
		for range calls {
			f()
		}
		return float64(time.Since(begun)) / float64(calls)
	}
	one(ours)
	one(peer)
	t := load.Turns{What: what, AtMost: atMost}
	for i := range rounds {
		if i%2 == 0 {
			t.Ours = append(t.Ours, one(ours))
		}
		t.Peer = append(t.Peer, one(peer))
		if i%2 == 1 {
			t.Ours = append(t.Ours, one(ours))
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		fail(err)
	}
}
