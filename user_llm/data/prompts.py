"""The questions that the language model is asked, one a task.

A change here changes the vocabulary's training text and what a checkpoint was
trained on.
"""

QUESTIONS = {
    'next_item': 'Which film next?',
    'favourite_genre': 'Favourite genre?',
}
