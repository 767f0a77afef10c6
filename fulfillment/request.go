package fulfillment

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

func parseID(field, text string) (store.ID, error) {
	id, err := store.ParseID(text)
	if err != nil {
		return store.ID{}, invalid(field, "A UUID in lower-case canonical form is needed.")
	}
	return id, nil
}

func parseClaims(claims []*fulfillmentv1.UnitClaim) ([]store.Claim, error) {
	parsed := make([]store.Claim, len(claims))
	for i, c := range claims {
		field := func(name string) string { return fmt.Sprintf("claims[%d].%s", i, name) }
		if len(c.GetTokenId()) != len(store.ID{}) {
			return nil, invalid(field("token_id"), "A token id has 16 bytes.")
		}
		drop, err := parseID(field("drop_id"), c.GetDropId())
		if err != nil {
			return nil, err
		}
		lease, err := parseID(field("lease_id"), c.GetLeaseId())
		if err != nil {
			return nil, err
		}
		parsed[i] = store.Claim{TokenID: store.ID(c.GetTokenId()), DropID: drop, Serial: c.GetSerial(), LeaseID: lease}
	}
	return parsed, nil
}

// The page sizes of the contract: for page_size 0, and at most.
const (
	defaultPage = 50
	maxPage     = 500
)

func pageSize(asked int32, otherwise, most int) int {
	if asked <= 0 {
		return otherwise
	}
	return min(int(asked), most)
}

// page cuts the one row off that was read too many, and tells whether it was there.
func page[T any](rows []T, size int) ([]T, bool) {
	if len(rows) > size {
		return rows[:size], true
	}
	return rows, false
}

// A page token is the sort key of the last row that was shown: a number, and an id where the number is not unique.
func pageToken(n int64, id []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, uint64(n)), id...))
}

func parsePageToken(token string, idSize int) (n int64, id []byte, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 8+idSize {
		return 0, nil, invalid("page_token", "This is no page token of this method.")
	}
	return int64(binary.BigEndian.Uint64(raw)), raw[8:], nil
}
