package postgres

import (
	"strconv"
	"strings"
)

// insert is the statement that makes a row of table from its columns.
func insert(table, columns string) string {
	return "INSERT INTO " + table + " (" + columns + ") VALUES (" + parameters(1, count(columns)) + ")"
}

// update is the statement that changes a row of table whose columns are all
// given. The first keys of them are its key, or, where keys is negative, the
// last.
func update(table, columns string, keys int) string {
	all := strings.Split(columns, ",")
	key, rest, keyAt, restAt := all, all, 1, 1
	if keys > 0 {
		key, rest, restAt = all[:keys], all[keys:], keys+1
	} else {
		rest, key, keyAt = all[:len(all)+keys], all[len(all)+keys:], len(all)+keys+1
	}
	return "UPDATE " + table + " SET (" + strings.Join(rest, ",") + ") = ROW(" + parameters(restAt, len(rest)) + ")" +
		" WHERE (" + strings.Join(key, ",") + ") = (" + parameters(keyAt, len(key)) + ")"
}

// parameters lists n placeholders from $first on.
func parameters(first, n int) string {
	var list []string
	for i := range n {
		list = append(list, "$"+strconv.Itoa(first+i))
	}
	return strings.Join(list, ", ")
}

func count(columns string) int { return strings.Count(columns, ",") + 1 }
