// Command guestbook is the program of a cell whose state its nucleus keeps: it works on a stranger's machine, in a
// sandbox without a disk, just as at home. A copy of the cell has a book of its own.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

func main() {
	cell.Main(
		cell.Func("visit", visit).Slow().Doc("Counts a visit and gives how many there were."),
		cell.Func("sign", sign).Slow().Doc("Writes into the book and gives the number of the entry."),
		cell.Func("entries", entries).Slow().Doc("Gives what is in the book."),
		cell.FuncBody("hang", hang).Doc("Hangs up a picture: the body."),
		cell.Func("picture", picture).Slow().Doc("Gives a picture as the body."),
	)
}

const (
	visitsKey = "visits"
	entryKey  = "entry/"
)

// next adds one to a number in the store.
func next(ctx context.Context, key string) (n int64, err error) {
	err = cell.StoreFrom(ctx).Update(ctx, key, func(old []byte) ([]byte, error) {
		if n = 0; old != nil {
			if n, err = strconv.ParseInt(string(old), 10, 64); err != nil {
				return nil, cellproto.Errorf("read "+key, cellproto.Corrupt, "%w", err)
			}
		}
		n++
		return strconv.AppendInt(nil, n, 10), nil
	})
	return n, err
}

func visit(ctx context.Context, _ cell.None) (int64, error) { return next(ctx, visitsKey) }

// Entry is what somebody has written.
type Entry struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

func sign(ctx context.Context, e Entry) (int64, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	n, err := next(ctx, "entries")
	if err != nil {
		return 0, err
	}
	return n, cell.StoreFrom(ctx).Put(ctx, fmt.Sprintf("%s%010d", entryKey, n), data)
}

func entries(ctx context.Context, _ cell.None) ([]Entry, error) {
	list := []Entry{}
	store := cell.StoreFrom(ctx)
	for key, err := range store.Keys(ctx, entryKey) {
		if err != nil {
			return nil, err
		}
		data, ok, err := store.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		var e Entry
		if ok && json.Unmarshal(data, &e) == nil {
			list = append(list, e)
		}
	}
	return list, nil
}

// Picture names one.
type Picture struct {
	Name string `json:"name" doc:"such as cat.png"`
}

func hang(ctx context.Context, p Picture, body io.Reader) (cell.None, error) {
	return cell.None{}, cell.StoreFrom(ctx).Write(ctx, p.Name, body)
}

func picture(ctx context.Context, p Picture) (io.ReadCloser, error) {
	return cell.StoreFrom(ctx).Open(ctx, p.Name)
}
